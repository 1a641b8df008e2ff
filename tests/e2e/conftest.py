"""The demo model and its adapters, and one server for the tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e_constants import CACHE
from live_server import ADAPTERS, LiveServer
from lorax_serve.server.demo import prepare_demo_model


@pytest.fixture(scope="session")
def demo_model() -> Path:
    return prepare_demo_model(CACHE, lambda line: None)


@pytest.fixture(scope="module")
def server(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    log = tmp_path_factory.mktemp("server") / "log"
    with LiveServer("--adapter-dir", ADAPTERS, "--cache-dir", CACHE, log=log) as running:
        yield running
        assert running.engine_pid, "the engine died during the tests"
    text = log.read_text()
    assert "Traceback" not in text, text
