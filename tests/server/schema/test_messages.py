import json

import msgspec
import pytest

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.schema.conversation import conversation
from lorax_serve.server.schema.messages import (
    MAX_CALLS,
    MAX_PARTS,
    Message,
    template_messages,
)

USER = {"role": "user", "content": "hi"}


def read(*turns: dict[str, object]) -> list[dict[str, object]]:
    return template_messages(msgspec.json.decode(json.dumps(turns), type=tuple[Message, ...]))


def call(arguments: object = "{}", **more: object) -> dict[str, object]:
    return {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": arguments},
    } | more


def called(arguments: object) -> dict[str, object]:
    return {"name": "f", "arguments": arguments}


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{"b": [1, 2.5, null], "a": "é"}', {"b": [1, 2.5, None], "a": "é"}),
        ({"b": {}}, {"b": {}}),
        ("", {}),
        (" \n", {}),
        (None, {}),
    ],
)
def test_arguments_are_a_value_in_the_order_given(
    arguments: object, value: dict[str, object]
) -> None:
    (turn,) = read({"role": "assistant", "tool_calls": [call(arguments)]})
    assert turn == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": called(value)}],
    }
    (got,) = turn["tool_calls"]  # type: ignore[misc]
    assert list(got["function"]["arguments"]) == list(value)


def test_a_call_without_a_type_is_a_function_s() -> None:
    for given in (call(type=None), {"id": "c1", "function": called("{}")}):
        (turn,) = read({"role": "assistant", "tool_calls": [given]})
        (got,) = turn["tool_calls"]  # type: ignore[misc]
        assert got["type"] == "function"


def test_results_of_tools() -> None:
    parts = [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]
    given = {"role": "tool", "content": parts, "tool_call_id": "c1", "name": "f"}
    assert read(given) == [{"role": "tool", "content": "42", "tool_call_id": "c1", "name": "f"}]


def test_old_function_calls_are_calls_whose_results_name_them() -> None:
    turns = read(
        USER,
        {"role": "assistant", "content": "", "function_call": called('{"a": 1}')},
        {"role": "function", "name": "f", "content": "x"},
        {"role": "assistant", "function_call": called("{}")},
        {"role": "function", "name": "f", "content": None},
    )
    ids = [turn["tool_calls"][0]["id"] for turn in (turns[1], turns[3])]  # type: ignore[index]
    assert len(set(ids)) == 2
    assert turns[2] == {"role": "tool", "name": "f", "content": "x", "tool_call_id": ids[0]}
    assert turns[4] == {"role": "tool", "name": "f", "content": "", "tool_call_id": ids[1]}
    assert turns[1]["tool_calls"] == [
        {"id": ids[0], "type": "function", "function": called({"a": 1})}
    ]


def test_past_thoughts_are_an_assistants() -> None:
    thought = {"content": "x", "reasoning_content": "hm"}
    assert read({"role": "assistant", **thought}) == [{"role": "assistant", **thought}]
    assert read({"role": "user", **thought}) == [{"role": "user", "content": "x"}]


def test_refusals_are_what_was_said() -> None:
    part = {"type": "refusal", "refusal": "No"}
    turns = read(
        {"role": "assistant", "content": [part, {"type": "text", "text": "."}]},
        {"role": "assistant", "content": None, "refusal": "Never."},
        {"role": "assistant", "content": "said", "refusal": "Never."},
    )
    assert [turn["content"] for turn in turns] == ["No.", "Never.", "said"]


ASSISTANT = {"role": "assistant"}


@pytest.mark.parametrize(
    ("turn", "param", "words"),
    [
        ({"role": "king"}, "messages[1].role", "must be one of"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file"}]},
            "messages[1].content[1]",
            "type 'file'",
        ),
        (
            {"role": "user", "content": [{"type": "text"}]},
            "messages[1].content[0].text",
            "required",
        ),
        ({**USER, "tool_calls": [call()]}, "messages[1].tool_calls", "assistant"),
        ({**USER, "function_call": called("")}, "messages[1].function_call", "assistant"),
        (
            {**ASSISTANT, "tool_calls": [call(), call("{,}")]},
            "messages[1].tool_calls[1].function.arguments",
            "JSON text of an object",
        ),
        (
            {**ASSISTANT, "tool_calls": [call("[1]")]},
            "messages[1].tool_calls[0].function.arguments",
            "JSON text of an object",
        ),
        (
            {**ASSISTANT, "tool_calls": [call("[" * 5000)]},
            "messages[1].tool_calls[0].function.arguments",
            "JSON text of an object",
        ),
        (
            {**ASSISTANT, "tool_calls": [call('{"a": "%s"}' % ("x" * 2**18))]},
            "messages[1].tool_calls[0].function.arguments",
            "larger than 256 KiB",
        ),
        (
            {**ASSISTANT, "function_call": called("no")},
            "messages[1].function_call.arguments",
            "JSON text of an object",
        ),
        (
            {**ASSISTANT, "tool_calls": [call()], "function_call": called("")},
            "messages[1].function_call",
            "beside `tool_calls`",
        ),
        (
            {**ASSISTANT, "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]},
            "messages[1].tool_calls[0].type",
            "only calls of functions",
        ),
        (
            {**ASSISTANT, "tool_calls": [{"id": "1"}]},
            "messages[1].tool_calls[0].function",
            "is required",
        ),
    ],
)
def test_what_cannot_be_rendered_is_named(turn: dict[str, object], param: str, words: str) -> None:
    with pytest.raises(ServeError, match=words) as refused:
        read(USER, turn)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "tool_calls": [call()] * (MAX_CALLS + 1)},
        {"role": "user", "content": [{"type": "text", "text": ""}] * (MAX_PARTS + 1)},
        {"role": "assistant", "tool_calls": [call(id="x" * 257)]},
        {"role": "user", "name": "x" * 257},
    ],
)
def test_bounds(turn: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(turn)


def test_a_message_is_continued_or_a_new_one_begun() -> None:
    messages = msgspec.json.decode(json.dumps([USER]), type=tuple[Message, ...])

    def prompted(*, prompt: bool | None, continued: bool) -> bool:
        return conversation(
            messages, add_generation_prompt=prompt, continue_final_message=continued, kwargs={}
        ).add_generation_prompt

    assert prompted(prompt=None, continued=False)
    assert not prompted(prompt=None, continued=True)
    assert not prompted(prompt=False, continued=True)
    with pytest.raises(ServeError, match="beside `add_generation_prompt`"):
        prompted(prompt=True, continued=True)


def test_template_variables_are_set_where_the_operator_allows_it() -> None:
    messages = msgspec.json.decode(json.dumps([USER]), type=tuple[Message, ...])
    asked = conversation(
        messages,
        add_generation_prompt=None,
        continue_final_message=False,
        kwargs={"enable_thinking": False, "tools": []},
    )
    asked.check_kwargs({"enable_thinking", "tools"})
    with pytest.raises(ServeError) as refused:
        asked.check_kwargs({"enable_thinking"})
    assert refused.value.code is ErrorCode.UNSUPPORTED_PARAMETER
    assert refused.value.param == "chat_template_kwargs.tools"
