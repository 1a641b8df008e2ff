"""Tools in chats, through the published client: what the model is shown, what its text becomes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from tool_chats import CALL, CLOCK, FORCED, NAMED, WEATHER, with_tool_template
from wire import Wire, running

ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}


@pytest.fixture
def files(wire_files: Path, tmp_path: Path) -> Path:
    return with_tool_template(wire_files, tmp_path)


@pytest.fixture
async def wire(files: Path) -> AsyncIterator[Wire]:
    async with running(files) as served:
        yield served


async def ask(client: AsyncOpenAI, **fields: Any) -> Any:
    asked: dict[str, Any] = {"model": "", "messages": [{"role": "user", "content": "?"}]}
    return await client.chat.completions.create(**asked, **fields)


async def streamed(client: AsyncOpenAI, **fields: Any) -> tuple[list[Any], str]:
    """The deltas, and the last finish reason."""
    chunks = [chunk async for chunk in await ask(client, stream=True, **fields)]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return [choice.delta for choice in choices], choices[-1].finish_reason


async def test_the_model_decides(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say(f"I look. {CALL}\n{CALL}")
    reply = await ask(client, tools=[WEATHER, CLOCK])
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Rome"}] * 2
    assert all(call.type == "function" and call.id.startswith("call_") for call in calls)
    assert calls[0].id != calls[1].id
    shown = wire.tokenizer.decode(
        wire.engine.requests[-1].prompt_token_ids, skip_special_tokens=False
    )
    assert '"name": "weather"' in shown and '"description": "Tells the time."' in shown
    assert wire.engine.requests[-1].grammar is None


async def test_the_model_says_something(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say(" It is warm. ")
    reply = await ask(client, tools=[WEATHER])
    message = reply.choices[0].message
    assert (message.content, message.tool_calls) == (" It is warm. ", None)
    assert reply.choices[0].finish_reason == "stop"
    assert "tool_calls" not in message.model_dump(exclude_unset=True)


async def test_a_stream_of_calls(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say(f"I look.\n{CALL}\n{CALL}")
    deltas, reason = await streamed(client, tools=[WEATHER])
    assert reason == "tool_calls"
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    parts = [part for delta in deltas for part in delta.tool_calls or []]
    for index in (0, 1):
        first, *others = [part for part in parts if part.index == index]
        assert first.id and first.type == "function"
        assert (first.function.name, first.function.arguments) == ("weather", "")
        assert all(part.id is part.type is part.function.name is None for part in others)
        assert len(others) > 1, "arguments come as they are written"
        text = "".join(part.function.arguments for part in others)
        assert json.loads(text) == {"city": "Rome"}


async def test_the_clients_own_stream_helper(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say(CALL)
    async with client.chat.completions.stream(
        model="", messages=[{"role": "user", "content": "?"}], tools=[WEATHER]
    ) as stream:
        events = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in events
    (call,) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Rome"}


@pytest.mark.parametrize("parallel", [True, False])
async def test_at_most_one(wire: Wire, client: AsyncOpenAI, parallel: bool) -> None:
    wire.will_say(CALL + CALL)
    reply = await ask(client, tools=[WEATHER], parallel_tool_calls=parallel)
    assert len(reply.choices[0].message.tool_calls) == 1 + parallel
    deltas, _ = await streamed(client, tools=[WEATHER], parallel_tool_calls=parallel)
    parts = [part for delta in deltas for part in delta.tool_calls or []]
    assert {part.index for part in parts} == set(range(1 + parallel))


async def test_required(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say(FORCED)
    reply = await ask(client, tools=[WEATHER, CLOCK], tool_choice="required")
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')
    grammar = wire.engine.requests[-1].grammar
    assert grammar is not None and b"weather" in grammar.payload and b"clock" in grammar.payload
    deltas, reason = await streamed(client, tools=[WEATHER], tool_choice="required")
    assert reason == "tool_calls" and not any(delta.content for delta in deltas)


async def test_named(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say('{"city": "Rome"}')
    reply = await ask(client, tools=[WEATHER, CLOCK], tool_choice=NAMED)
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason) == (None, "stop")
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')
    grammar = wire.engine.requests[-1].grammar
    assert grammar is not None and b"clock" not in grammar.payload


async def test_only_the_allowed_are_shown(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say("no")
    await ask(client, tools=[WEATHER, CLOCK], tool_choice=ALLOWED)
    shown = wire.tokenizer.decode(
        wire.engine.requests[-1].prompt_token_ids, skip_special_tokens=False
    )
    assert "weather" in shown and "clock" not in shown


async def test_none(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say(CALL)
    reply = await ask(client, tools=[WEATHER], tool_choice="none")
    assert reply.choices[0].message.content == CALL
    assert reply.choices[0].finish_reason == "stop"


async def test_each_choice_has_its_own_calls(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say(CALL)
    reply = await ask(client, tools=[WEATHER], n=3)
    calls = [choice.message.tool_calls for choice in reply.choices]
    assert [len(each) for each in calls] == [1, 1, 1]
    assert len({each[0].id for each in calls}) == 3


async def test_the_old_fields(wire: Wire, client: AsyncOpenAI) -> None:
    wire.will_say(CALL)
    functions = [WEATHER["function"]]
    reply = await ask(client, functions=functions)
    (choice,) = reply.choices
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.name == "weather"
    assert json.loads(choice.message.function_call.arguments) == {"city": "Rome"}
    deltas, reason = await streamed(client, functions=functions)
    assert reason == "function_call"
    text = "".join(d.function_call.arguments or "" for d in deltas if d.function_call)
    assert json.loads(text) == {"city": "Rome"}
    wire.will_say('{"city": "Rome"}')
    reply = await ask(client, functions=functions, function_call={"name": "weather"})
    assert reply.choices[0].message.function_call.arguments == '{"city": "Rome"}'
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER] * 129}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, "tool_choice"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "function", "function": {"name": "clock"}},
            },
            "tool_choice",
        ),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "functions": [CLOCK["function"]]}, "functions"),
        ({"function_call": {"name": "weather"}}, "function_call"),
        (
            {"tools": [WEATHER], "tool_choice": NAMED, "response_format": {"type": "json_object"}},
            "tool_choice",
        ),
    ],
    ids=str,
)
async def test_what_contradicts_is_refused_by_name(
    client: AsyncOpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        await ask(client, **fields)
    assert caught.value.param == param, caught.value.message


async def test_a_template_that_shows_no_tools(files: Path) -> None:
    """Its model cannot decide, but can be forced."""
    (files / "model" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    async with (
        running(files) as wire,
        AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="none", max_retries=0) as client,
    ):
        wire.will_say('{"city": "Rome"}')
        with pytest.raises(BadRequestError) as caught:
            await ask(client, tools=[WEATHER])
        assert caught.value.param == "tools"
        reply = await ask(client, tools=[WEATHER], tool_choice=NAMED)
        assert reply.choices[0].message.tool_calls[0].function.name == "weather"
