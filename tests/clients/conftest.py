"""A server with the demo's adapters for each module, and the programs of published clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import stub_engine
from client_programs import ClientPrograms
from e2e_constants import CACHE
from live_server import ADAPTERS, LiveServer
from lorax_serve.server.demo import prepare_demo_model
from serve_with_stub import stub_server, write_model


@pytest.fixture(scope="module")
def options() -> tuple[str | Path, ...]:
    return ("--adapter-dir", ADAPTERS)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, options: tuple[str | Path, ...]
) -> Iterator[LiveServer]:
    prepare_demo_model(CACHE, lambda line: None)
    log = tmp_path_factory.mktemp("server") / "log"
    with LiveServer(*options, "--cache-dir", CACHE, log=log) as running:
        yield running
        assert running.engine_pid, "the engine died during the tests"
    text = log.read_text()
    assert "Traceback" not in text, text


@pytest.fixture(scope="module")
def one_place_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that has one request open at most, for answers that never end."""
    model = f"--model-id={write_model(tmp_path_factory.mktemp('model'))}"
    with stub_server(stub_engine.SERVES, model, "--max-concurrent-requests=1") as running:
        [url] = running.line("ready")["urls"]
        yield str(url)


@pytest.fixture(scope="module")
def programs(server: LiveServer, one_place_url: str) -> ClientPrograms:
    return ClientPrograms(server.url, one_place_url)
