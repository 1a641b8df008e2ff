"""The outermost layer: request ids, overload, crashes, and bytes that are hardly HTTP."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from fake_engine import Step, Tokens
from lorax_serve.ipc.types import FinishReason
from lorax_serve.server.service import Limits
from wire import Wire, running

NATIVE = ("/generate", {"inputs": "hi"})
OPENAI = ("/v1/completions", {"model": "", "prompt": "hi"})


@pytest.mark.parametrize("given", ["abc-123", "a" * 128, "~!"])
async def test_a_request_id_is_taken_over(wire: Wire, given: str) -> None:
    for path in ("/health", "/nothing", "/v1/nothing"):
        reply = await wire.client.get(path, headers={"x-request-id": given})
        assert reply.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "ü"])
async def test_an_unusable_request_id_is_replaced(wire: Wire, given: str) -> None:
    reply = await wire.client.get("/health", headers={"x-request-id": given})
    assert reply.headers["x-request-id"] != given
    assert len(reply.headers["x-request-id"]) == 32


async def test_streams_have_a_request_id_too(wire: Wire) -> None:
    wire.will_say("x")
    headers = {"x-request-id": "mine"}
    reply = await wire.client.post("/generate_stream", json={"inputs": "hi"}, headers=headers)
    assert reply.headers["x-request-id"] == "mine"


@pytest.mark.parametrize(("path", "body"), [NATIVE, OPENAI])
async def test_a_crash_shows_nothing_of_itself(wire: Wire, path: str, body: object) -> None:
    wire.engine.script = [RuntimeError("/srv/secret 0x7f00")]
    reply = await wire.client.post(path, json=body, headers={"x-request-id": "mine"})
    text = await reply.text()
    assert reply.status == 500
    assert "internal_error" in text
    assert "secret" not in text
    (entry,) = wire.logs
    assert (entry["log_level"], entry["request_id"]) == ("error", "mine")


@pytest.mark.parametrize("kind", [NATIVE, OPENAI])
async def test_overload(wire_files: Path, kind: tuple[str, object]) -> None:
    path, body = kind
    go = asyncio.Event()
    async with running(wire_files, Limits(max_concurrent_requests=2)) as wire:
        script: Sequence[Step] = [go, Tokens([5], FinishReason.LENGTH)]
        wire.engine.script = script
        waiting = [asyncio.create_task(wire.client.post(path, json=body)) for _ in range(2)]
        while len(wire.engine.requests) < 2:
            await asyncio.sleep(0)
        reply = await wire.client.post(path, json=body)
        assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
        go.set()
        assert [(await task).status for task in waiting] == [200, 200]
        assert (await wire.client.post(path, json=body)).status == 200


HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BROKEN = [
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"inp\r\nxx\r\n',
    HEAD + b'Content-Length: 100\r\n\r\n{"inputs"',
    b"POST /generate HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"\x16\x03\x01 this is TLS",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("raw", BROKEN, ids=lambda raw: repr(raw[-24:]))
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:aiohttp")
async def test_bytes_that_are_hardly_http(wire: Wire, raw: bytes) -> None:
    """Answered with a 4xx or not at all; nothing crashes and the server serves on."""
    server = wire.client.server
    assert server.port is not None
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(raw)
    writer.write_eof()
    received = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    assert received == b"" or received.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert [entry for entry in wire.logs if entry["log_level"] == "error"] == []
    assert (await wire.client.get("/health")).status == 200


async def test_a_body_that_never_arrives_times_out(wire_files: Path) -> None:
    async with running(wire_files, Limits(body_timeout=0.05)) as wire:
        server = wire.client.server
        assert server.port is not None
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(HEAD + b"Content-Length: 10\r\n\r\n{")
        status = await reader.readline()
        writer.close()
        await writer.wait_closed()
    assert b" 408 " in status


@pytest.mark.parametrize("expectation", ["100-continue", "nonsense"])
async def test_any_expectation_is_no_obstacle(wire: Wire, expectation: str) -> None:
    wire.will_say("ok")
    headers = {"Expect": expectation}
    reply = await wire.client.post("/generate", json={"inputs": "hi"}, headers=headers)
    assert await reply.json() == {"generated_text": "ok"}
    reply = await wire.client.get("/nothing", headers=headers)
    assert 400 <= reply.status < 500
    assert wire.logs == []
