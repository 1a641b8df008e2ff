"""Strict tools in chats: what the model is held to, or what is said where nothing holds it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from openai import AsyncOpenAI

from lorax_serve.ipc.types import GrammarKind
from tool_chats import CALL, CITY, FORCED, with_tool_template
from wire import Wire, running


@pytest.fixture
def files(wire_files: Path, tmp_path: Path) -> Path:
    return with_tool_template(wire_files, tmp_path)


@pytest.fixture
async def wire(files: Path) -> AsyncIterator[Wire]:
    async with running(files) as served:
        yield served


STRICT = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {**CITY, "additionalProperties": False},
        "strict": True,
    },
}


async def test_calls_of_strict_tools_are_told_like_any(wire: Wire) -> None:
    """Their ids, pieces and finish are those of calls that the model decides on."""
    wire.will_say(f"I look. {CALL}\n{CALL}")
    async with (
        AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="none", max_retries=0) as client,
        client.chat.completions.stream(
            model="", messages=[{"role": "user", "content": "?"}], tools=[STRICT]
        ) as stream,
    ):
        events = [event.type async for event in stream]
        (choice,) = (await stream.get_final_completion()).choices
    assert events.count("tool_calls.function.arguments.delta") > 4, "they come as they are written"
    assert (choice.message.content, choice.finish_reason) == ("I look.", "tool_calls")
    calls = choice.message.tool_calls
    assert [call.function.parsed_arguments for call in calls] == [{"city": "Rome"}] * 2
    assert len({call.id for call in calls}) == 2
    grammar = wire.engine.requests[-1].grammar
    assert grammar is not None and grammar.kind is GrammarKind.LLGUIDANCE_CONTROL
    assert b"weather" in grammar.payload


@pytest.mark.parametrize(
    ("fields", "kind", "is_named"),
    [
        ({}, GrammarKind.LLGUIDANCE_CONTROL, False),
        ({"tool_choice": "required"}, GrammarKind.LLGUIDANCE, False),
        ({"response_format": {"type": "json_object"}}, GrammarKind.LLGUIDANCE, True),
    ],
    ids=str,
)
async def test_strict_is_named_where_nothing_enforces_it(
    wire: Wire, fields: dict[str, Any], kind: GrammarKind, is_named: bool
) -> None:
    """An answer in another format holds no calls."""
    wire.will_say(FORCED)
    reply = await asked_raw(wire, tools=[STRICT], **fields)
    assert reply.status == 200, await reply.text()
    named = reply.headers.get("x-ignored-params")
    assert named == ("tools.function.strict" if is_named else None)
    grammar = wire.engine.requests[-1].grammar
    assert grammar is not None and grammar.kind is kind


async def test_strict_is_named_where_no_family_is_known(files: Path) -> None:
    (files / "model" / "chat_template.jinja").write_text("{{ tools }}{{ messages[0].content }}")
    async with running(files) as wire:
        wire.will_say(CALL)
        reply = await asked_raw(wire, tools=[STRICT])
        assert reply.headers["x-ignored-params"] == "tools.function.strict"
        assert wire.engine.requests[-1].grammar is None


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_a_strict_schema_that_cannot_be_enforced_is_refused_alike(
    wire: Wire, choice: str
) -> None:
    function = {"name": "f", "parameters": {"type": "object", "not": {}}, "strict": True}
    tools = [{"type": "function", "function": function}]
    reply = await asked_raw(wire, tools=tools, tool_choice=choice)
    assert reply.status == 400
    error = (await reply.json())["error"]
    assert error["code"] == "invalid_json_schema"
    assert error["message"] == "The schema's keyword 'not' cannot be enforced."


async def asked_raw(wire: Wire, **fields: Any) -> ClientResponse:
    body = {"model": "", "messages": [{"role": "user", "content": "?"}], **fields}
    return await wire.client.post("/v1/chat/completions", json=body)
