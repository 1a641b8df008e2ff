"""The engine's process: how it ends where something goes wrong that nobody foresaw."""

import subprocess
import sys
from pathlib import Path

import msgspec

from lorax_serve.ipc.config import EngineConfig

# Its frontend is there, and keeps its standard input open.
BROKEN = """
import sys
from lorax_serve.engine import __main__ as engine

def broken(link):
    raise RuntimeError("unforeseen")

engine._await_hello = broken
sys.exit(engine.main())
"""


def test_an_error_ends_it_with_its_traceback_and_no_abort(tmp_path: Path) -> None:
    config = EngineConfig(endpoint=f"ipc://{tmp_path}/socket", model_path="unused")
    with subprocess.Popen(
        [sys.executable, "-P", "-c", BROKEN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        process.stdin.flush()
        said = process.stdout.read().decode()
        assert process.wait(60) == 1, said
    assert "unforeseen" in said and "Traceback" in said
    assert "Fatal Python error" not in said
