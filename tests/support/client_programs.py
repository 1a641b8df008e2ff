"""The programs of tests/clients/programs: published clients, in environments of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from live_server import ROOT

PROGRAMS = ROOT / "tests" / "clients" / "programs"
# litellm would ask the internet for its list of prices.
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
SECONDS = 300


class ClientPrograms:
    """Runs each of them once, with the URLs of the servers that it is to ask."""

    def __init__(self, *urls: str) -> None:
        self._urls = urls
        self._told: dict[tuple[str, str | None], dict[str, Any]] = {}

    def results(self, name: str, environment: str | None) -> dict[str, Any]:
        """What the program says it got, in the environment of that name or in the tests' own."""
        key = (name, environment)
        if key not in self._told:
            self._told[key] = self._run(name, _python(environment))
        return self._told[key]

    def _run(self, name: str, python: Path) -> dict[str, Any]:
        done = subprocess.run(
            [python, PROGRAMS / name, *self._urls],
            env=os.environ | QUIET,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        results: dict[str, Any] = json.loads(done.stdout)
        return results


def _python(environment: str | None) -> Path:
    if environment is None:
        return Path(sys.executable)
    python = ROOT / ".venv-clients" / environment / "bin" / "python"
    assert python.exists(), "run scripts/client-env, as scripts/test does"
    return python
