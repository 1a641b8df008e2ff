"""A server over a stub engine, started and ended."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from frontend_bench.model import write_model

_SCRIPT = Path(__file__).with_name("serve.py")


@dataclass(frozen=True)
class Server:
    pids: tuple[int, ...]  # of its frontends, and of the process that started those
    port: int
    ticks_file: Path


@contextmanager
def running_server(step_seconds: float, num_frontends: int = 1) -> Iterator[Server]:
    """Ready; ended with the block."""
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_model(folder / "model")
        ticks_file = folder / "ticks"
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", str(_SCRIPT), str(ticks_file), str(step_seconds)),
                *("--model-id", str(folder / "model"), "--port", "0", "--log-format", "json"),
                *("--frontends", str(num_frontends)),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(folder)},
        )
        with process:
            try:
                port = _port(process)
                yield Server((process.pid, *_frontends(process.pid)), port, ticks_file)
            finally:
                process.terminate()
                process.communicate()


def _frontends(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            if b"lorax_serve.server.frontends" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield int(child)


def _port(process: "subprocess.Popen[str]") -> int:
    """Waits until the server says that it is ready."""
    assert process.stderr is not None
    for line in process.stderr:
        fields = json.loads(line) if line.startswith("{") else {}
        if fields.get("event") == "ready":
            (url, *_) = fields["urls"]
            return int(url.rpartition(":")[2])
    raise SystemExit("the server ended before it was ready")
