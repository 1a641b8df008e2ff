"""Replies that list a long prompt's tokens are made beside the event loop, and lack nothing."""

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from fake_engine import ENGINE_INFO
from wire import Wire

PROMPT = "a" * 4000
CALLS: dict[str, tuple[str, dict[str, object]]] = {
    "echo": ("/v1/completions", {"model": "", "prompt": PROMPT, "echo": True, "logprobs": 1}),
    "streamed echo": (
        "/v1/completions",
        {"model": "", "prompt": PROMPT, "echo": True, "logprobs": 1, "stream": True},
    ),
    "prefill": (
        "/generate",
        {"inputs": PROMPT, "parameters": {"decoder_input_details": True, "max_new_tokens": 1}},
    ),
    "tokenize": ("/tokenize", {"inputs": PROMPT}),
    "strings": ("/tokenize", {"prompt": PROMPT, "return_token_strs": True}),
}


@pytest.fixture
def long_wire(wire: Wire) -> Wire:
    wire.engine.info_ = msgspec.structs.replace(ENGINE_INFO, max_model_len=8192)
    wire.will_say("!")
    return wire


@pytest.mark.parametrize("call", CALLS)
async def test_the_loop_does_not_read_the_tokens(
    long_wire: Wire, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """But for those of the answer."""
    readers: list[int] = []
    for name in ("token_text", "vocabulary_piece"):
        plain = getattr(long_wire.tokenizer, name)

        def noted(token_id: int, plain: Any = plain) -> Any:
            readers.append(threading.get_ident())
            return plain(token_id)

        monkeypatch.setattr(long_wire.tokenizer, name, noted)
    path, body = CALLS[call]
    reply = await long_wire.client.post(path, json=body)
    assert reply.status == 200, await reply.text()
    await reply.read()
    assert len(readers) > 1024
    assert readers.count(threading.get_ident()) < 16


async def test_a_body_of_several_megabytes_arrives_whole(long_wire: Wire) -> None:
    """While another client is answered."""
    long_wire.engine.info_ = msgspec.structs.replace(ENGINE_INFO, max_model_len=2**20)
    text = "~!" * 20_000
    reply, other = await asyncio.gather(
        long_wire.client.post("/tokenize", json={"inputs": text}),
        long_wire.client.get("/health"),
    )
    assert other.status == 200
    body = await reply.read()
    assert len(body) == int(reply.headers["Content-Length"]) > 2**20
    assert reply.headers["Content-Type"] == "application/json"
    pieces = msgspec.json.decode(body)
    assert "".join(text[piece["start"] : piece["stop"]] for piece in pieces) == text
