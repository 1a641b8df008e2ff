"""Facts about processes, from /proc."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_SECONDS = 30.0
_LISTEN = "0A"


def is_running(pid: int) -> bool:
    """False for a zombie too."""
    try:
        return _state(pid) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def frontends(pid: int) -> list[int]:
    """The children of a server that share its port."""
    return [
        child
        for child in children(pid)
        if b"lorax_serve.server.frontends" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """They stand still: what others could do as well, others do."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        while any(_state(pid) != "T" for pid in pids):
            time.sleep(0.001)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def wait_gone(*pids: int) -> bool:
    """Whether every process has ended before our patience has."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while any(map(is_running, pids)):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def listening_ports(pid: int) -> set[int]:
    """TCP ports that this one process listens on, IPv4 and IPv6."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink()) if descriptor.is_symlink() else ""
        if target.startswith("socket:["):
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
