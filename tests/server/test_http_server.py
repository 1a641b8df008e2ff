"""aiohttp's server as ours: what it does with bytes that no route of ours gets to see."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from fake_engine import FakeEngine
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.app import build_app
from lorax_serve.server.errors import EngineLost, ServeError, StartError
from lorax_serve.server.http_server import serving
from lorax_serve.server.listening import bound_sockets
from lorax_serve.server.service import Service
from wire import make_service

Address = tuple[str, int]

JSON = b"Host: x\r\nContent-Type: application/json\r\n"
SECRET = b"Bearer-my-secret-token"


@pytest_asyncio.fixture
async def service(wire_files: Path) -> AsyncIterator[Service]:
    made = make_service(wire_files, FakeEngine())
    yield made
    made.tokenizer.close()


@pytest_asyncio.fixture
async def address(service: Service) -> AsyncIterator[Address]:
    with bound_sockets("127.0.0.1", 0) as sockets:
        async with serving(build_app(service), sockets):
            yield sockets[0].getsockname()


async def exchanged(address: Address, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers with small names and body of what answers these bytes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(raw)
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode().strip().split("\r\n")
    headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    if first.startswith("HTTP/1.0"):
        assert await reader.read() == b""  # closed
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return int(first.split()[1]), headers, body


UNREADABLE = [
    b"GET / HTTP/1.1\r\nAuthorization: " + SECRET + b"x" * 10_000 + b"\r\n\r\n",
    b"GET /" + SECRET + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"BAD\xffMETHOD" + SECRET + b" / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + SECRET + b" no colon\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5" + SECRET + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(200)) + b"\r\n",
]


@pytest.mark.parametrize("raw", UNREADABLE, ids=lambda raw: repr(raw[:24]))
async def test_what_is_no_http_gets_our_words_and_no_echo(
    address: Address, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as logs:
        status, headers, body = await exchanged(address, raw)
    assert status == 400
    assert headers["content-type"].startswith("application/json")
    assert json.loads(body) == {
        "error": "The request cannot be read as HTTP.",
        "error_type": "bad_request",
    }
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("unreadable_request", "info")
    ]
    assert SECRET.decode() not in repr(logs) + caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"gzip, gzip"])
async def test_an_encoded_body_is_refused_unread(
    address: Address, encoding: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Even one that is not what its header says."""
    head = b"POST /generate HTTP/1.1\r\n" + JSON + b"Content-Encoding: " + encoding
    with capture_logs() as logs:
        status, _, body = await exchanged(
            address, head + b"\r\nContent-Length: 11\r\n\r\nnot gzipped"
        )
        await asyncio.sleep(0.05)  # the rest of the exchange
    assert status == 415
    assert json.loads(body)["error"] == "The body must come without Content-Encoding."
    assert logs == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("failure", "told"),
    [(EngineLost(), "false"), (ServeError(ErrorCode.ENGINE_LOST, "Gone."), None)],
    ids=["taken", "refused"],
)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/completions"])
async def test_only_what_the_engine_had_is_not_to_be_retried(
    service: Service, address: Address, path: str, failure: ServeError, told: str | None
) -> None:
    assert isinstance(service.engine, FakeEngine)
    service.engine.script = [failure]
    payload = b'{"inputs": "hi", "model": "", "prompt": "hi"}'
    raw = f"POST {path} HTTP/1.1\r\nContent-Length: {len(payload)}\r\n".encode() + JSON
    status, headers, _ = await exchanged(address, raw + b"\r\n" + payload)
    # LoRAX's status for what its engine gave up.
    expected = 500 if told == "false" and not path.startswith("/v1/") else 503
    assert (status, headers["retry-after"]) == (expected, "5")
    assert headers.get("x-should-retry") == told


async def test_a_closed_listener_lets_open_requests_end(service: Service) -> None:
    go = asyncio.Event()
    assert isinstance(service.engine, FakeEngine)
    service.engine.script = [go, EngineLost()]
    payload = b'{"inputs": "hi"}'
    raw = b"POST /generate HTTP/1.1\r\nContent-Length: 16\r\n" + JSON + b"\r\n" + payload
    with bound_sockets("127.0.0.1", 0) as sockets:
        address = sockets[0].getsockname()
        async with serving(build_app(service), sockets) as listeners:
            answer = asyncio.create_task(exchanged(address, raw))
            while not service.engine.requests:
                await asyncio.sleep(0)
            for listener in listeners:
                listener.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)
            go.set()
            assert (await answer)[0] == 500


async def test_a_port_that_another_server_took_meanwhile(service: Service) -> None:
    with bound_sockets("127.0.0.1", 0) as sockets:
        rival = socket.socket()
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(sockets[0].getsockname())
        rival.listen()
        with pytest.raises(StartError, match="in use"):
            async with serving(build_app(service), sockets):
                pytest.fail("the port is busy")
        rival.close()
