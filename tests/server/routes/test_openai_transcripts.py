"""What leaves OpenAI's routes, byte for byte, against the files in transcripts/openai/; and all of
it fits the types of the openai package, in which no field may be unknown but our extensions.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fake_engine import Step, Tokens
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.errors import EngineLost, ServeError
from openai_types import EXTENSIONS, check_events, check_reply
from tool_chats import CALL, FORCED, NAMED, WEATHER, with_tool_template
from transcripts import masked, script, transcript
from wire import Wire, running

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "openai"
PAGE = Path(__file__).resolve().parents[3] / "docs" / "compatibility.md"

CHAT, COMPLETION, EMBEDDINGS, MODELS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
)
STREAM = {"stream": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CONTINUOUS = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
OLD_FUNCTION = {"functions": [WEATHER["function"]], "function_call": {"name": "weather"}}


@dataclass(frozen=True)
class Case:
    """A request, and what the engine says: to each of its branches its own text, then the ends."""

    body: dict[str, object] = field(default_factory=dict)
    says: Sequence[str] = ("",)
    ends: Sequence[Step] = ()
    path: str = CHAT
    is_golden: bool = True  # not where branches run side by side: their order may be any


CASES = {
    "chat": Case({"model": "alice"}, ["Hi ö"]),
    "chat_stream": Case({"model": "ünï çode", **STREAM}, ["Hi ö"]),
    "chat_stream_usage": Case(USAGE, ["Hi"]),
    "chat_continuous_usage": Case(CONTINUOUS, ["Hi"], is_golden=False),
    "chat_choices": Case({"n": 2}, ["one", "two"]),
    "chat_stream_choices": Case({"n": 2, **USAGE}, ["one", "two"], is_golden=False),
    "chat_logprobs": Case({"logprobs": True, "top_logprobs": 1}, ["ö"]),
    "chat_stream_logprobs": Case({"logprobs": True, "top_logprobs": 1, **STREAM}, ["ö"]),
    "chat_stop_string": Case({"stop": "STOP", "service_tier": "auto"}, ["a STOP b"]),
    "chat_stream_stop_token": Case(
        {"stop_token_ids": [33], **STREAM}, ["a"], [Tokens(b"b", FinishReason.STOP_TOKEN)]
    ),
    "chat_stream_length": Case(
        {"max_tokens": 2, **STREAM}, ["w"], [Tokens(b"\xc3", FinishReason.LENGTH)]
    ),
    "chat_calls": Case({"tools": [WEATHER]}, [f"I look. {CALL}\n{CALL}"]),
    "chat_stream_calls": Case({"tools": [WEATHER], **USAGE}, [f"I look. {CALL}\n{CALL}"]),
    "chat_stream_required": Case(
        {"tools": [WEATHER], "tool_choice": "required", **STREAM}, [FORCED]
    ),
    "chat_stream_named": Case(
        {"tools": [WEATHER], "tool_choice": NAMED, **STREAM}, ['{"city": "Rome"}']
    ),
    "chat_function": Case(OLD_FUNCTION, ['{"city": "Rome"}']),
    "chat_stream_function": Case({**OLD_FUNCTION, **STREAM}, ['{"city": "Rome"}']),
    "chat_unknown_field": Case({"colour\r\n: ü": 1}, ["k"]),
    "chat_refused": Case({"audio": {"voice": "alloy"}}),
    "chat_unknown_adapter": Case({"model": "no\r\nsuch: ü", **STREAM}),
    "chat_stream_failure": Case(STREAM, ["H"], [EngineLost()]),
    "chat_failure_before": Case(
        STREAM, [""], [ServeError(ErrorCode.ADAPTER_CORRUPT, "It is damaged.")]
    ),
    "chat_token_ids": Case({"return_token_ids": True}, ["ö"]),
    "chat_stream_token_ids": Case({"return_token_ids": True, "stop": "xyz", **STREAM}, ["xyö"]),
    "completion_token_ids": Case(
        {"prompt": [[5, 6], [7]], "return_token_ids": True}, ["a", "ö"], path=COMPLETION
    ),
    "completion_stream_token_ids": Case(
        {"prompt": "h", "return_token_ids": True, "echo": True, "stop": "xyz", **STREAM},
        ["xyö"],
        path=COMPLETION,
    ),
    "completion": Case({"prompt": "hi"}, ["Hi ö"], path=COMPLETION),
    "completion_stream": Case({"prompt": "hi", **USAGE}, ["Hi ö"], path=COMPLETION),
    "completion_echo": Case({"prompt": "hö", "echo": True, "logprobs": 1}, ["k"], path=COMPLETION),
    "completion_stream_echo": Case(
        {"prompt": "hö", "echo": True, "logprobs": 1, **STREAM}, ["k"], path=COMPLETION
    ),
    "completion_prompts": Case(
        {"prompt": [[5, 6], [7]], "n": 2}, ["a", "b", "c", "d"], path=COMPLETION
    ),
    "completion_stream_prompts": Case(
        {"prompt": ["x", "y"], **USAGE}, ["a", "b"], path=COMPLETION, is_golden=False
    ),
    "embeddings": Case({"input": ["hi", "ö"], "model": "alice"}, path=EMBEDDINGS),
    "embeddings_base64": Case({"input": [1, 2, 3], "encoding_format": "base64"}, path=EMBEDDINGS),
    "models": Case(path=MODELS),
    "model": Case(path=f"{MODELS}/team/ops"),
    "model_unknown": Case(path=f"{MODELS}/nobody"),
}


@pytest.fixture
async def wire(wire_files: Path, tmp_path: Path) -> AsyncIterator[Wire]:
    async with running(with_tool_template(wire_files, tmp_path)) as served:
        yield served


async def reply_to(wire: Wire, case: Case) -> bytes:
    for number, text in enumerate(case.says):
        wire.engine.scripts[number] = script(wire, text, case.ends)
    if case.path.startswith(MODELS):
        return await transcript(await wire.client.get(case.path))
    messages = {"messages": [{"role": "user", "content": "hi"}]} if case.path == CHAT else {}
    body = {"model": "", **messages, **case.body}
    return await transcript(await wire.client.post(case.path, json=body))


@pytest.mark.parametrize("name", CASES)
async def test_transcript(wire: Wire, name: str) -> None:
    case = CASES[name]
    got = await reply_to(wire, case)
    if case.is_golden:
        assert masked(got) == (TRANSCRIPTS / f"{name}.txt").read_bytes()
    head, _, body = got.partition(b"\n\n")
    if not head.startswith(b"200"):
        return
    if b"text/event-stream" in head:
        assert check_events(body) > 0
    else:
        check_reply(json.loads(body))


def test_every_transcript_is_used() -> None:
    names = {path.stem for path in TRANSCRIPTS.iterdir()}
    assert names == {name for name, case in CASES.items() if case.is_golden}


MODEL: dict[str, Any] = {"id": "x", "object": "model", "created": 1, "owned_by": "us"}


@pytest.mark.parametrize("wrong", [{"colour": 1}, {"created": "now"}, {"owned_by": None}], ids=str)
def test_the_judge_finds_what_does_not_fit(wrong: dict[str, object]) -> None:
    check_reply(dict(MODEL))
    with pytest.raises((AssertionError, ValidationError)):
        check_reply({**MODEL, **wrong})


def test_the_judge_looks_inside() -> None:
    choice = {"index": 0, "delta": {"colour": 1}, "finish_reason": None}
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    with pytest.raises(AssertionError, match=r"choices\.delta\.colour"):
        check_reply({**chunk, "choices": [choice]})


@pytest.mark.parametrize("name", sorted(EXTENSIONS))
def test_each_extension_is_documented(name: str) -> None:
    assert f"`{name.rpartition('.')[2]}`" in PAGE.read_text()
