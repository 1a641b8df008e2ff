"""The real `lorax-serve`, both processes, on a free port of this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
ADAPTERS = ROOT / "examples" / "adapters"
START_SECONDS = 120


class LiveServer:
    """Started by the constructor, ready when it returns; use it as a context manager."""

    def __init__(self, *options: str | Path, log: Path) -> None:
        self.log = log
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [Path(sys.executable).with_name("lorax-serve"), "--port", str(port), *options]
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a process group of its own, as a terminal would give it
            )
        self._wait_until_ready()

    def __enter__(self) -> "LiveServer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.interrupt()
        try:
            self.process.wait(timeout=60)
        finally:
            for pid in self.group():
                os.kill(pid, signal.SIGKILL)

    def interrupt(self) -> None:
        """Ctrl-C on a terminal: SIGINT to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    @property
    def engine_pid(self) -> int:
        pid = self.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def group(self) -> list[int]:
        """The pids of all living processes this server has started, itself included."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == self.process.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(
            self.url + path,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended while starting:\n{self._logged()}")
            try:
                if self.get("/ready")[0] == 200:
                    return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.05)
        self.process.kill()
        raise AssertionError(f"not ready after {START_SECONDS} s:\n{self._logged()}")

    def _logged(self) -> str:
        return self.log.read_text() if self.log.is_file() else "nowhere"  # devices have no end


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
