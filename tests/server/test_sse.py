"""Streams as bytes on a socket: keep-alives, ends, breaks, and clients that leave."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from fake_engine import Tokens
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.errors import EngineLost, ServeError
from lorax_serve.server.service import Limits
from lorax_serve.server.sse import KEEP_ALIVE, WRITTEN_AT_ONCE, _Wire
from wire import Wire, running

CLEAN_END = b"0\r\n\r\n"
STREAMS: dict[str, dict[str, object]] = {
    "/": {"inputs": "hi", "stream": True},
    "/generate_stream": {"inputs": "hi"},
    "/v1/completions": {"model": "", "prompt": "hi", "stream": True},
    "/v1/chat/completions": {
        "model": "",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    },
}
REPLIES = {path: body | {"stream": False} for path, body in STREAMS.items()}
REPLIES["/generate"] = REPLIES.pop("/generate_stream")


@asynccontextmanager
async def raw_request(
    wire: Wire,
    path: str,
    body: object,
    *,
    receive_bytes: int | None = None,
    version: str = "1.1",
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request sent over a bare socket, for what HTTP clients hide."""
    server = wire.client.server
    plain = socket.socket()
    plain.setblocking(False)
    if receive_bytes is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await asyncio.get_running_loop().sock_connect(plain, (server.host, server.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=2**16)
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/{version}\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()


async def aborted(wire: Wire) -> None:
    """Returns once the engine was told to abort the one request it has."""
    await asyncio.wait_for(wire.engine.changed.wait(), timeout=30)
    assert wire.engine.aborted == [request.request_id for request in wire.engine.requests]


async def quiet(before: set[asyncio.Task[object]]) -> None:
    """Returns once no task is left that was not there before."""
    async with asyncio.timeout(30):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", STREAMS)
async def test_a_finished_stream_ends_cleanly(wire: Wire, path: str) -> None:
    wire.will_say("ok")
    async with raw_request(wire, path, STREAMS[path]) as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        assert b"text/event-stream" in head
        assert b"X-Accel-Buffering: no" in head
        assert b"Cache-Control: no-cache" in head
        body = await reader.readuntil(CLEAN_END)
    assert (b"[DONE]" in body) == path.startswith("/v1/")


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize(
    ("failure", "shown", "hidden"),
    [
        (EngineLost(), b"The engine stopped", b"\0"),
        (ServeError(ErrorCode.GENERATION_ERROR, "It failed."), b"It failed.", b"\0"),
        (RuntimeError("/srv/secret 0x7f00"), b"The server failed", b"secret"),
        (ConnectionResetError("secret"), b"The server failed", b"secret"),
        (TimeoutError("secret"), b"The server failed", b"secret"),
    ],
    ids=["lost", "failed", "crashed", "connection", "timeout"],
)
async def test_a_stream_that_cannot_finish_is_torn(
    wire: Wire, path: str, failure: Exception, shown: bytes, hidden: bytes
) -> None:
    """An error event, then the connection breaks: no terminating chunk and no [DONE]."""
    wire.engine.script = [Tokens(wire.spell("He")), failure]
    before = asyncio.all_tasks()
    async with raw_request(wire, path, STREAMS[path]) as (reader, _):
        received = await reader.read(-1)
    assert b"200 OK" in received
    last_event = received.split(b"data: ")[-1]
    assert b'"error"' in last_event
    assert shown in last_event
    assert hidden not in received
    assert not received.endswith(CLEAN_END)
    assert b"[DONE]" not in received
    await quiet(before)


@pytest.mark.parametrize("path", STREAMS)
async def test_without_chunks_a_torn_stream_is_a_reset(wire: Wire, path: str) -> None:
    """To HTTP/1.0 the end of the connection is the end of the body: it must not be a clean one."""
    wire.engine.script = [Tokens(wire.spell("He")), EngineLost()]
    received = b""
    async with raw_request(wire, path, STREAMS[path], version="1.0") as (reader, _):
        with pytest.raises(ConnectionResetError):
            while piece := await reader.read(2**16):
                received += piece
    assert b"chunked" not in received
    assert b"The engine stopped" in received


@pytest.mark.parametrize("path", STREAMS)
async def test_without_chunks_a_finished_stream_ends_cleanly(wire: Wire, path: str) -> None:
    wire.will_say("ok")
    async with raw_request(wire, path, STREAMS[path], version="1.0") as (reader, _):
        received = await reader.read(-1)
    assert b"chunked" not in received
    assert received.endswith(b"\n\n")


@pytest.mark.parametrize("path", STREAMS)
async def test_a_failure_before_the_first_token_has_a_status(wire: Wire, path: str) -> None:
    wire.engine.script = [ServeError(ErrorCode.ADAPTER_CORRUPT, "The file is damaged.")]
    await wire.client.get("/health")  # opens the connection, whose tasks stay
    before = asyncio.all_tasks()
    reply = await wire.client.post(path, json=STREAMS[path])
    assert reply.status == (422 if path.startswith("/v1/") else 424)
    assert reply.content_type == "application/json"
    assert "damaged" in await reply.text()
    await quiet(before)


@pytest.mark.parametrize("path", STREAMS)
async def test_a_crash_before_the_first_token_is_a_500(wire: Wire, path: str) -> None:
    wire.engine.script = [RuntimeError("/srv/secret 0x7f00")]
    reply = await wire.client.post(path, json=STREAMS[path])
    assert reply.status == 500
    assert "secret" not in await reply.text()


async def test_silence_is_filled_with_comments(wire_files: Path) -> None:
    """Before the first token and between tokens; the status goes out with the first comment."""
    go, on = asyncio.Event(), asyncio.Event()
    async with running(wire_files, Limits(keep_alive_interval=0.01)) as wire:
        ids = wire.spell("ab")
        wire.engine.script = [go, Tokens(ids[:1]), on, Tokens(ids[1:], FinishReason.LENGTH)]
        async with raw_request(wire, "/generate_stream", {"inputs": "hi"}) as (reader, _):
            await reader.readuntil(b": keep-alive\n\n")
            await reader.readuntil(b": keep-alive\n\n")
            go.set()
            await reader.readuntil(b'"text":"a"')
            await reader.readuntil(b": keep-alive\n\n")
            on.set()
            last = await reader.readuntil(CLEAN_END)
    assert b'"generated_text":"ab"' in last


async def test_a_failure_after_a_comment_is_an_event(wire_files: Path) -> None:
    fail = asyncio.Event()
    async with running(wire_files, Limits(keep_alive_interval=0.01)) as wire:
        wire.engine.script = [fail, ServeError(ErrorCode.ADAPTER_CORRUPT, "The file is damaged.")]
        async with raw_request(wire, "/generate_stream", {"inputs": "hi"}) as (reader, _):
            await reader.readuntil(b": keep-alive\n\n")
            fail.set()
            rest = await reader.read(-1)
    assert b'data: {"error":"The file is damaged.","error_type":"generation"}' in rest
    assert not rest.endswith(CLEAN_END)


@pytest.mark.parametrize("path", STREAMS)
async def test_a_client_that_leaves_a_stream_aborts_it(wire: Wire, path: str) -> None:
    wire.engine.script = [Tokens(wire.spell("He"))]
    before = asyncio.all_tasks()
    async with raw_request(wire, path, STREAMS[path]) as (reader, _):
        await reader.readuntil(b"data: ")
    await aborted(wire)
    await quiet(before)


@pytest.mark.parametrize("path", STREAMS)
async def test_a_client_that_leaves_before_the_first_token_aborts(wire: Wire, path: str) -> None:
    before = asyncio.all_tasks()
    async with raw_request(wire, path, STREAMS[path]):
        while not wire.engine.requests:
            await asyncio.sleep(0)
    await aborted(wire)
    await quiet(before)


@pytest.mark.parametrize("path", REPLIES)
async def test_a_client_that_does_not_wait_for_its_reply_aborts(wire: Wire, path: str) -> None:
    before = asyncio.all_tasks()
    async with raw_request(wire, path, REPLIES[path]):
        while not wire.engine.requests:
            await asyncio.sleep(0)
    await aborted(wire)
    await quiet(before)


async def test_a_client_that_does_not_read_is_dropped(wire_files: Path) -> None:
    async with running(wire_files, Limits(write_timeout=0.05)) as wire:
        wire.engine.script = [Tokens(wire.spell("x") * 200)] * 2000
        body = {"inputs": "hi", "parameters": {"return_k_alternatives": 20}}
        before = asyncio.all_tasks()
        async with raw_request(wire, "/generate_stream", body, receive_bytes=4096):
            await aborted(wire)
        await quiet(before)


class _PausedResponse:
    """Keeps what is written; the third write waits to be let go."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.paused, self.go_on = asyncio.Event(), asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.written.append(data)
        if len(self.written) == 3:
            self.paused.set()
            await self.go_on.wait()
        await asyncio.sleep(0)


async def test_a_long_event_is_written_bit_by_bit_and_without_comments_inside() -> None:
    response: Any = _PausedResponse()
    wire = _Wire(cast(web.Request, None), response, Limits(keep_alive_interval=0.0))
    frame = bytes(range(256)) * 4096
    sending = asyncio.create_task(wire.event(frame))
    await response.paused.wait()
    keeping_alive = asyncio.create_task(wire.keep_alive())
    for _ in range(20):
        await asyncio.sleep(0)
    response.go_on.set()
    await sending
    while response.written[-1] != KEEP_ALIVE:
        await asyncio.sleep(0)
    keeping_alive.cancel()
    event, comments = b"data: " + frame + b"\n\n", response.written.count(KEEP_ALIVE)
    assert b"".join(response.written) == event + KEEP_ALIVE * comments
    assert max(map(len, response.written)) <= WRITTEN_AT_ONCE < len(frame)
