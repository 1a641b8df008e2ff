"""What leaves the native routes, byte for byte, against the files in transcripts/native/."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fake_engine import Step, Tokens
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.errors import EngineLost, ServeError
from lorax_serve.server.service import Limits
from transcripts import script, transcript
from wire import Wire, running

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "native"
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


@pytest.mark.parametrize("name", CASES)
async def test_transcript(wire: Wire, name: str) -> None:
    case = CASES[name]
    wire.engine.script = script(wire, case.says, case.ends)
    body = {"inputs": "hi", "parameters": case.parameters, **case.body}
    reply = await wire.client.post(case.path, json=body)
    assert await transcript(reply) == (TRANSCRIPTS / f"{name}.txt").read_bytes()


async def test_a_comment_while_nothing_comes(wire_files: Path) -> None:
    async with running(wire_files, Limits(keep_alive_interval=0.5)) as wire:
        go = asyncio.Event()
        wire.engine.script = [go, *script(wire, "ok")]
        reply = await wire.client.post("/generate_stream", json={"inputs": "hi"})
        comment = await reply.content.readexactly(len(KEEP_ALIVE))
        go.set()
        got = await transcript(reply, so_far=comment)
    assert got == (TRANSCRIPTS / "keep_alive.txt").read_bytes()


def test_every_transcript_is_used() -> None:
    names = {path.stem for path in TRANSCRIPTS.iterdir()}
    assert names == {*CASES, "keep_alive"}
