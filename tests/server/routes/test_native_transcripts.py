"""What leaves the native routes, byte for byte, against transcripts that were read by people.

Each file in transcripts/ is a status, the headers and the body. Left out are headers whose value
differs each time, and those of the transport.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ClientResponse

from fake_engine import Step, Tokens
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.errors import EngineLost, ServeError
from lorax_serve.server.service import Limits
from wire import Wire, running

TRANSCRIPTS = Path(__file__).parent / "transcripts"
TRANSPORT = {"date", "server", "x-request-id", "transfer-encoding", "content-length"}
KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True)
class Case:
    """A request, and what the engine says: text, then how it ends."""

    says: str = ""
    ends: Sequence[Step] = ()  # after `says`; else the end token comes
    parameters: dict[str, object] = field(default_factory=dict)
    path: str = "/generate_stream"
    body: dict[str, object] = field(default_factory=dict)


CASES = {
    "plain": Case("Hi ö"),
    "root_with_nulls": Case(
        "ok",
        path="/",
        body={"stream": True},
        parameters=dict.fromkeys(("adapter_id", "seed", "top_k", "stop", "best_of")),
    ),
    "details_of_a_sampled_adapter": Case(
        "ok",
        parameters={
            "adapter_id": "ünï çode",
            "details": True,
            "do_sample": True,
            "return_k_alternatives": 1,
            "seed": 2**64 - 1,
        },
    ),
    "stop_string_and_full_text": Case(
        "a, b", parameters={"stop": [", "], "return_full_text": True, "details": True}
    ),
    "length_inside_a_character": Case(
        "w", [Tokens([0xC3], FinishReason.LENGTH)], {"details": True, "max_new_tokens": 2}
    ),
    "failure_after_a_token": Case("H", [EngineLost()]),
    "failure_before_a_token": Case(ends=[ServeError(ErrorCode.ADAPTER_CORRUPT, "It is damaged.")]),
    "refusal": Case(parameters={"watermark": True}),
    "unknown_adapter": Case(parameters={"adapter_id": "no\r\nsuch: ü"}),
    "unknown_fields": Case("k", body={"colour\r\nx: ü": 1}, parameters={"top_n_tokens": 3}),
}


def script(wire: Wire, case: Case) -> list[Step]:
    """One token for each byte. A byte of a `Tokens` in `ends` is an id only once it is spelled."""
    steps: list[Step] = [Tokens([token_id]) for token_id in wire.spell(case.says)]
    for step in case.ends or [Tokens([wire.eos], FinishReason.EOS)]:
        if isinstance(step, Tokens) and case.ends:
            step = Tokens([wire.token(bytes([byte])) for byte in step.ids], step.finish)
        steps.append(step)
    return steps


async def transcript(reply: ClientResponse, *, so_far: bytes = b"") -> bytes:
    """All that came of it, also if the connection broke."""
    body = bytearray(so_far)
    with suppress(ClientPayloadError):
        async for piece in reply.content.iter_any():
            body += piece
    shown = sorted(
        f"{name.lower()}: {value}\n"
        for name, value in reply.headers.items()
        if name.lower() not in TRANSPORT
    )
    return f"{reply.status}\n{''.join(shown)}\n".encode() + bytes(body)


@pytest.mark.parametrize("name", CASES)
async def test_transcript(wire: Wire, name: str) -> None:
    case = CASES[name]
    wire.engine.script = script(wire, case)
    body = {"inputs": "hi", "parameters": case.parameters, **case.body}
    reply = await wire.client.post(case.path, json=body)
    assert await transcript(reply) == (TRANSCRIPTS / f"{name}.txt").read_bytes()


async def test_a_comment_while_nothing_comes(wire_files: Path) -> None:
    async with running(wire_files, Limits(keep_alive_interval=0.5)) as wire:
        go = asyncio.Event()
        wire.engine.script = [go, *script(wire, Case("ok"))]
        reply = await wire.client.post("/generate_stream", json={"inputs": "hi"})
        comment = await reply.content.readexactly(len(KEEP_ALIVE))
        go.set()
        got = await transcript(reply, so_far=comment)
    assert got == (TRANSCRIPTS / "keep_alive.txt").read_bytes()


def test_every_transcript_is_used() -> None:
    names = {path.stem for path in TRANSCRIPTS.iterdir()}
    assert names == {*CASES, "keep_alive"}
