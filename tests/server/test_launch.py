"""Whole servers with a stand-in engine: started, interrupted, killed, and nothing left behind."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

import processes
import stub_engine
from raw_stream import RawStream, is_torn
from serve_with_stub import StubServer, stub_server, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"--model-id={write_model(tmp_path_factory.mktemp('model'))}"


@pytest.fixture
def server(model: str) -> Iterator[StubServer]:
    with stub_server(stub_engine.SERVES, model) as running:
        yield running


def url_of(server: StubServer) -> str:
    [url] = server.line("ready")["urls"]
    return str(url)


async def get(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return reply.status


def assert_nothing_left(server: StubServer, engine_pid: int) -> None:
    assert processes.wait_gone(server.process.pid, engine_pid)
    assert list(server.runtime_dir.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_both_processes_and_removes_the_folder(
    server: StubServer, number: signal.Signals
) -> None:
    url = url_of(server)
    engine = server.engine_pid
    assert await get(f"{url}/ready") == 200
    server.process.send_signal(number)
    assert server.line("stopping")["limit_seconds"] == 30
    assert server.line("stopped")["level"] == "info"
    assert server.wait() == 0
    assert_nothing_left(server, engine)
    assert "Traceback" not in server.rest()


async def test_ctrl_c_on_the_whole_group_leaves_the_engine_to_the_frontend(model: str) -> None:
    with stub_server(stub_engine.SERVES, model, "--shutdown-timeout=0.2") as server:
        stream = await RawStream.begin(url_of(server))
        os.killpg(server.process.pid, signal.SIGINT)
        assert b"server_shutdown" in await stream.rest()  # and not engine_lost
        assert server.wait() == 0


def test_only_the_http_port_listens(server: StubServer) -> None:
    url = url_of(server)
    assert processes.listening_ports(server.process.pid) == {urlsplit(url).port}
    assert processes.listening_ports(server.engine_pid) == set()


async def test_clients_see_the_folders_name_and_may_say_its_path(
    server: StubServer, model: str
) -> None:
    path = Path(model.removeprefix("--model-id="))
    url = url_of(server)
    async with aiohttp.ClientSession(url) as session:
        for address in ("/info", "/v1/models", f"/v1/models/{path.name}", f"/v1/models/{path}"):
            reply = await session.get(address)
            said = await reply.text()
            assert reply.status == 200, said
            assert f'"{path.name}"' in said
            assert str(path) not in said
        for name in ("", path.name, str(path)):
            body = {"model": name, "prompt": [30], "max_tokens": 1}
            reply = await session.post("/v1/completions", json=body)
            assert reply.status == 200, await reply.text()
            assert reply.headers["x-model-id"] == path.name
            assert (await reply.json())["model"] == path.name


@pytest.mark.parametrize("options", [(), ("--embedding-pooling=mean",)], ids=["last", "mean"])
async def test_embeddings_are_pooled_as_the_operator_says_and_ended_at_the_stop(
    model: str, options: tuple[str, ...]
) -> None:
    limits = ("--shutdown-timeout=0.2", "--max-concurrent-requests=2")
    with stub_server(stub_engine.SERVES, model, *limits, *options) as server:
        async with aiohttp.ClientSession(url_of(server)) as session:
            reply = await session.post("/v1/embeddings", json={"model": "", "input": [30]})
            (item,) = (await reply.json())["data"]
            assert item["embedding"] == [1, 0, len(options), 30]
            hanging = asyncio.ensure_future(_hanging_embeddings(session))
            while (await session.post("/embed", json={"inputs": "a"})).status != 429:
                continue  # it does not have its two places yet
            server.process.send_signal(signal.SIGTERM)
            reply = await hanging
            assert (reply.status, (await reply.json())["error"]["code"]) == (503, "server_shutdown")
        assert server.wait() == 0


async def _hanging_embeddings(session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
    """Of two inputs, one of which is never answered; once there are places for both."""
    body = {"model": "", "input": [[stub_engine.HANG], [40]]}
    while (reply := await session.post("/v1/embeddings", json=body)).status == 429:
        continue
    return reply


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_a_line_for_each_request_at_debug_level(model: str, level: str) -> None:
    with stub_server(stub_engine.SERVES, model, f"--log-level={level}") as server:
        async with aiohttp.ClientSession(url_of(server)) as session:
            body = {"model": "", "prompt": [30], "max_tokens": 2}
            assert (await session.post("/v1/completions", json=body)).status == 200
        server.process.terminate()
        said = server.rest()
    assert ('"num_generated_tokens": 2' in said) == (level == "debug")


async def test_so_many_adapters_have_labels_as_the_operator_says(
    model: str, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        (tmp_path / name / "adapter_model.safetensors").touch()
    options = (f"--adapter-dir={tmp_path}", "--metrics-max-adapters=2")
    with stub_server(stub_engine.SERVES, model, *options) as server:
        async with aiohttp.ClientSession(url_of(server)) as session:
            for name in ("a", "b", "c"):
                body = {"model": name, "prompt": [30], "max_tokens": 1}
                assert (await session.post("/v1/completions", json=body)).status == 200
            text = await (await session.get("/metrics")).text()
    shown = re.findall(r'lorax_adapter_requests_total{adapter="(.*)"} 1.0', text)
    assert shown == ["a", "b", "other"]


def test_room_for_not_even_one_adapter_is_warned_of(model: str) -> None:
    with stub_server(stub_engine.SERVES, model, "--adapter-memory=32KiB") as narrow:
        warning = narrow.line("adapter_memory_below_one_of_rank_16")
        assert warning["level"] == "warning"
        assert warning["adapter_memory"] == "32 KiB"
        assert warning["one_of_rank_16_on_every_layer"] == "64 KiB"
        ready = narrow.line("ready")
        assert ready["num_fitting_rank_16"] == 0
        assert "/adapters/" in ready["adapter_cache_dir"]
    with stub_server(stub_engine.SERVES, model, "--adapter-memory=64KiB") as enough:
        assert "adapter_memory_below" not in enough.until("ready")


def test_ctrl_c_while_loading_ends_the_start(model: str) -> None:
    with stub_server(stub_engine.LOADS_FOREVER, model) as server:
        assert server.line("loading")["phase"] == "Loading weights"
        engine = server.engine_pid
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
        assert_nothing_left(server, engine)
        assert "Traceback" not in server.rest()


def test_the_port_does_not_answer_before_the_engine_is_ready(model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with stub_server(stub_engine.LOADS_FOREVER, model, f"--port={port}") as server:
        server.line("loading")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_the_engine_goes_when_the_frontend_is_killed(server: StubServer) -> None:
    url_of(server)
    engine = server.engine_pid
    server.process.kill()
    assert processes.wait_gone(engine)


def test_the_next_start_removes_the_folder_of_a_killed_server(
    server: StubServer, model: str
) -> None:
    url_of(server)
    server.process.kill()
    server.wait()
    [abandoned] = server.runtime_dir.iterdir()
    again = StubServer(
        stub_engine.SERVES,
        "--port=0",
        "--log-format=json",
        model,
        runtime_dir=server.runtime_dir,
    )
    url_of(again)
    assert not abandoned.exists()
    again.process.terminate()
    assert again.wait() == 0
    again.rest()
    again.process.stderr.close()  # type: ignore[union-attr]


async def test_a_killed_engine_ends_streams_with_an_error_and_the_server_with_70(
    server: StubServer,
) -> None:
    url = url_of(server)
    streams = [await RawStream.begin(url) for _ in range(4)]
    os.kill(server.engine_pid, signal.SIGKILL)
    for stream in streams:
        said = await stream.rest()
        assert b"engine_lost" in said
        assert is_torn(said)
    assert server.line("stopped")["reason"] == "The engine was killed by SIGKILL."
    assert server.wait() == 70
    assert list(server.runtime_dir.iterdir()) == []


async def test_open_streams_get_the_shutdown_timeout_and_then_an_error(model: str) -> None:
    with stub_server(stub_engine.SERVES, model, "--shutdown-timeout=0.2") as server:
        url = url_of(server)
        engine = server.engine_pid
        stream = await RawStream.begin(url)
        server.process.terminate()
        assert server.line("stopping")["num_open_requests"] == 1
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(f"{url}/health")
        said = await stream.rest()
        assert b"server_shutdown" in said
        assert is_torn(said)
        assert server.wait() == 0
        assert_nothing_left(server, engine)


async def test_a_second_signal_does_not_wait_for_open_streams(model: str) -> None:
    with stub_server(stub_engine.SERVES, model, "--shutdown-timeout=3600") as server:
        stream = await RawStream.begin(url_of(server))
        server.process.send_signal(signal.SIGINT)
        server.line("stopping")
        server.process.send_signal(signal.SIGINT)
        assert b"server_shutdown" in await stream.rest()
        assert server.wait() == 0


async def test_a_client_that_leaves_takes_its_request_along(model: str) -> None:
    """Else the shutdown would wait for the request for an hour."""
    with stub_server(stub_engine.SERVES, model, "--shutdown-timeout=3600") as server:
        stream = await RawStream.begin(url_of(server))
        await stream.close()
        server.process.terminate()
        assert server.wait() == 0


def test_a_busy_port_is_a_sentence_before_anything_is_loaded(model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        options = (model, f"--port={port}", "--log-format=text")
        with stub_server(stub_engine.LOADS_FOREVER, *options) as server:
            assert server.wait() == 1
            assert server.rest() == (
                f"lorax-serve: Port {port} of 127.0.0.1 is in use; choose another with --port.\n"
            )


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        (stub_engine.REFUSES, stub_engine.REFUSAL),
        (stub_engine.CRASHES, "The engine ended with exit code 3 while starting"),
    ],
)
def test_an_engine_that_cannot_start_is_a_sentence(
    model: str, behaviour: str, sentence: str
) -> None:
    with stub_server(behaviour, model, "--log-format=text") as server:
        assert server.wait() == 1
        said = server.rest()
        assert f"lorax-serve: {sentence}" in said
        assert "Traceback" not in said
        assert list(server.runtime_dir.iterdir()) == []


def test_debug_shows_the_traceback(model: str) -> None:
    with stub_server(stub_engine.REFUSES, model, "--debug") as server:
        assert "StartError" in server.line("start_failed")["exception"]
        assert server.wait() == 1


def test_the_banner_says_what_is_served_and_where(model: str, tmp_path: Path) -> None:
    (tmp_path / "pirate").mkdir()
    (tmp_path / "pirate" / "adapter_config.json").touch()
    options = (model, "--log-format=text", f"--adapter-dir={tmp_path}")
    with stub_server(stub_engine.SERVES, *options) as server:
        assert server.process.stderr is not None
        lines = [next(server.process.stderr)]
        while "LoRAX API" not in lines[-1]:
            lines.append(next(server.process.stderr))
        banner = "".join(lines[-9:])
        for fact in (
            "lorax-serve",
            model.removeprefix("--model-id="),
            "StubForCausalLM",
            "cpu, float32",
            "512 tokens a request",
            "holds 1,600",
            f"1 in {tmp_path}",
            "16 of rank 16 on every layer",
            "http://127.0.0.1:",
        ):
            assert fact in banner
