"""Servers with two frontends and a stand-in engine: served by both, and ended in every way."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

import processes
import stub_engine
from raw_stream import RawStream, is_torn
from serve_with_stub import StubServer, stub_server, write_model

PAIR = ("--frontends=2", "--shutdown-timeout=0.2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"--model-id={write_model(tmp_path_factory.mktemp('model'))}"


@pytest.fixture
def server(model: str) -> Iterator[StubServer]:
    with stub_server(stub_engine.SERVES, model, *PAIR) as running:
        yield running


def url_of(server: StubServer) -> str:
    [url] = server.line("ready")["urls"]
    return str(url)


async def a_stream_of_each(server: StubServer, url: str) -> dict[int, RawStream]:
    """By the frontend that serves it: a paused one accepts nothing."""
    first, second = server.frontend_pids
    streams = {}
    for pid, other in ((first, second), (second, first)):
        with processes.paused(other):
            streams[pid] = await RawStream.begin(url)
    return streams


def assert_nothing_left(server: StubServer, pids: set[int]) -> None:
    assert processes.wait_gone(server.process.pid, *pids)
    assert list(server.runtime_dir.iterdir()) == []


async def test_each_serves_and_a_signal_ends_them_once_their_streams_have_had_their_time(
    server: StubServer,
) -> None:
    url = url_of(server)
    pids = set(processes.children(server.process.pid))
    assert len(pids) == 3
    streams = await a_stream_of_each(server, url)
    os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does; one alone listens
    for stream in streams.values():
        said = await stream.rest()
        assert b"server_shutdown" in said
        assert is_torn(said)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{url}/health")
    assert server.wait() == 0
    assert_nothing_left(server, pids)
    assert "Traceback" not in server.rest()


async def test_a_second_signal_does_not_wait_for_open_streams(model: str) -> None:
    options = ("--frontends=2", "--shutdown-timeout=3600")
    with stub_server(stub_engine.SERVES, model, *options) as server:
        streams = await a_stream_of_each(server, url_of(server))
        server.process.terminate()
        for _ in streams:
            server.line("stopping")
        server.process.terminate()
        for stream in streams.values():
            assert b"server_shutdown" in await stream.rest()
        assert server.wait() == 0


async def test_a_killed_engine_ends_the_streams_of_all_with_an_error_and_the_server_with_70(
    server: StubServer,
) -> None:
    url = url_of(server)
    pids = set(processes.children(server.process.pid))
    streams = await a_stream_of_each(server, url)
    os.kill(server.engine_pid, signal.SIGKILL)
    for stream in streams.values():
        said = await stream.rest()
        assert b"engine_lost" in said
        assert is_torn(said)
    assert server.line("stopped")["reason"] == "The engine was killed by SIGKILL."
    assert server.wait() == 70
    assert_nothing_left(server, pids)


async def test_a_killed_frontend_ends_the_server_once_the_streams_of_others_had_their_time(
    server: StubServer,
) -> None:
    url = url_of(server)
    pids = set(processes.children(server.process.pid))
    (killed, lost), (_, kept) = (await a_stream_of_each(server, url)).items()
    os.kill(killed, signal.SIGKILL)
    assert is_torn(await lost.rest())
    assert b"server_shutdown" in await kept.rest()
    assert server.line("stopped")["reason"] == "A frontend process was killed by SIGKILL."
    assert server.wait() == 70
    assert_nothing_left(server, pids)


async def test_all_go_when_the_process_that_was_started_is_killed(server: StubServer) -> None:
    url = url_of(server)
    pids = processes.children(server.process.pid)
    streams = await a_stream_of_each(server, url)
    server.process.kill()
    assert processes.wait_gone(*pids)
    for stream in streams.values():
        assert is_torn(await stream.rest())


def test_frontends_hear_no_signals_and_only_they_have_the_port(server: StubServer) -> None:
    port = urlsplit(url_of(server)).port
    for pid in server.frontend_pids:
        assert processes.listening_ports(pid) == {port}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    for pid in (server.process.pid, server.engine_pid):
        assert processes.listening_ports(pid) == set()
    server.process.terminate()
    assert "frontend_process_lost" not in server.rest()
    assert server.wait() == 0


def test_what_a_frontend_cannot_start_with_is_one_sentence(model: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = (model, *PAIR, f"--cache-dir={tmp_path / 'file'}", "--log-format=text")
    with stub_server(stub_engine.SERVES, *options) as server:
        assert server.wait() == 1
        said = server.rest()
        assert said.count("lorax-serve: Adapters cannot be kept in") == 1
        assert "Traceback" not in said
        assert list(server.runtime_dir.iterdir()) == []


def test_a_signal_while_the_engine_loads_ends_the_start(model: str) -> None:
    with stub_server(stub_engine.LOADS_FOREVER, model, *PAIR) as server:
        server.line("loading")
        server.process.terminate()
        assert server.wait() == 0
        assert "Traceback" not in server.rest()
        assert list(server.runtime_dir.iterdir()) == []
