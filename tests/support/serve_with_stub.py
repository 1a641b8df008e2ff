"""`lorax-serve` as it is, but with the stand-in engine, as a process.

python -P serve_with_stub.py BEHAVIOUR [lorax-serve options]
"""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import processes
import stub_engine
from lorax_serve.server import cli, launch
from tiny_tokenizers import write_byte_level


def write_model(folder: Path) -> Path:
    """A model folder as far as the frontend looks at one."""
    write_byte_level(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").touch()
    return folder


def _hear_hangups() -> None:
    """Under nohup a server ignores them, as it should; also when only the tests were started so."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class StubServer:
    """A running server process; `line` reads what it logs, one JSON object after another."""

    def __init__(self, behaviour: str, *options: str, runtime_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        support = str(Path(__file__).parent)
        path = os.pathsep.join([support, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, behaviour, *options],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a test can press Ctrl-C for the whole group
            preexec_fn=_hear_hangups,
            env={**os.environ, "PYTHONPATH": path, "XDG_RUNTIME_DIR": str(runtime_dir)},
        )
        assert self.process.stderr is not None
        self._stderr = self.process.stderr

    def line(self, event: str) -> Mapping[str, Any]:
        """The next log line about `event`; what comes before it is passed over."""
        seen = ""
        for text in self._stderr:
            seen += text
            fields: Mapping[str, Any] = json.loads(text) if text.startswith("{") else {}
            if fields.get("event") == event:
                return fields
        raise AssertionError(f"the server ended before it logged {event!r}: {seen}")

    def until(self, event: str) -> str:
        """What it logs before `event`."""
        seen = ""
        for text in self._stderr:
            if text.startswith("{") and json.loads(text).get("event") == event:
                return seen
            seen += text
        raise AssertionError(f"the server ended before it logged {event!r}: {seen}")

    @property
    def engine_pid(self) -> int:
        [pid] = set(processes.children(self.process.pid)) - set(self.frontend_pids)
        return pid

    @property
    def frontend_pids(self) -> list[int]:
        """Of those that share the port, if several do."""
        return processes.frontends(self.process.pid)

    def rest(self) -> str:
        """What it still writes until it ends."""
        return self._stderr.read()

    def wait(self) -> int:
        return self.process.wait(processes.PATIENCE_SECONDS)


@contextmanager
def stub_server(behaviour: str, *options: str) -> Iterator[StubServer]:
    """Runs on a free port and logs JSON unless the options say otherwise; killed at the end."""
    with TemporaryDirectory(prefix="run-") as folder:  # short, as socket paths must be
        defaults = ("--port=0", "--log-format=json")
        server = StubServer(behaviour, *defaults, *options, runtime_dir=Path(folder))
        try:
            yield server
        finally:
            server.process.kill()
            server.process.wait()
            server.rest()
            server.process.stderr.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    launch.run = functools.partial(launch.run, engine_command=stub_engine.command(sys.argv[1]))
    sys.exit(cli.main(sys.argv[2:]))
