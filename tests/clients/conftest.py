"""A server with the demo's adapters for each module, and the environments of clients."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e_constants import CACHE
from live_server import ADAPTERS, ROOT, LiveServer
from lorax_serve.server.demo import prepare_demo_model

PROGRAMS = Path(__file__).parent / "programs"
# litellm would ask the internet for its list of prices.
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    prepare_demo_model(CACHE, lambda line: None)
    log = tmp_path_factory.mktemp("server") / "log"
    with LiveServer("--adapter-dir", ADAPTERS, "--cache-dir", CACHE, log=log) as running:
        yield running
        assert running.engine_pid, "the engine died during the tests"
    text = log.read_text()
    assert "Traceback" not in text, text


@pytest.fixture(scope="module")
def openai_1(server: LiveServer) -> dict[str, Any]:
    return _results(server, environment="openai-1", program="openai_1.py")


@pytest.fixture(scope="module")
def frameworks(server: LiveServer) -> dict[str, Any]:
    return _results(server, environment="frameworks", program="frameworks.py")


def _results(server: LiveServer, *, environment: str, program: str) -> dict[str, Any]:
    python = ROOT / ".venv-clients" / environment / "bin" / "python"
    assert python.exists(), "run scripts/client-env, as scripts/test does"
    done = subprocess.run(
        [python, PROGRAMS / program, server.url],
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results
