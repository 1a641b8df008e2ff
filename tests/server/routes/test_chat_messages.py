"""What a chat request says of its messages and their template, from the SDK to the engine."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from wire import Wire, running

HISTORY: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "warm?"}],
    },
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"a": 1}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "9"},
]
READS_ALL = (
    "{% for m in messages %}[{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments.a + 1 }}"
    "{% endfor %}{{ m.tool_call_id }}]{% endfor %}"
    "{% for d in documents or [] %}<{{ d.text }}>{% endfor %}"
    "{{ '?' if add_generation_prompt }}{{ enable_thinking }}{{ reasoning_effort }}"
)


@pytest.fixture
def files(wire_files: Path, tmp_path: Path) -> Path:
    shutil.copytree(wire_files, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model" / "chat_template.jinja").write_text(READS_ALL)
    return tmp_path


@pytest.fixture
async def wire(files: Path) -> AsyncIterator[Wire]:
    async with running(files, template_kwargs=("enable_thinking",)) as served:
        yield served


async def prompt(wire: Wire, messages: list[Any], **fields: Any) -> str:
    """What the engine was given, as text."""
    wire.will_say("ok")
    async with AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="none", max_retries=0) as client:
        await client.chat.completions.create(model="", messages=messages, extra_body=fields)
    return wire.tokenizer.decode(
        wire.engine.requests[-1].prompt_token_ids, skip_special_tokens=False
    )


async def test_the_template_reads_the_history(wire: Wire) -> None:
    expected = "[system:Be brief.][user:How warm?][assistant:w2][tool:9c1]?"
    assert await prompt(wire, HISTORY) == expected


async def test_documents_and_variables_reach_the_template(wire: Wire) -> None:
    text = await prompt(
        wire, HISTORY[:1], documents=[{"text": "x"}], chat_template_kwargs={"enable_thinking": 3}
    )
    assert text == "[system:Be brief.]<x>?3"


async def test_the_last_message_is_continued(wire: Wire) -> None:
    messages = [HISTORY[0], {"role": "assistant", "content": "It is "}]
    text = await prompt(wire, messages, continue_final_message=True)
    assert text == "[system:Be brief.][assistant:It is "
    reply = await wire.client.post(
        "/tokenize", json={"messages": messages, "continue_final_message": True}
    )
    assert (await reply.json())["tokens"] == wire.engine.requests[-1].prompt_token_ids


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template_kwargs": {"date_string": "x"}}, "chat_template_kwargs.date_string"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0].function",
        ),
    ],
)
async def test_what_is_refused_is_named(wire: Wire, fields: dict[str, Any], param: str) -> None:
    messages = fields.pop("messages", HISTORY)
    with pytest.raises(BadRequestError) as refused:
        await prompt(wire, messages, **fields)
    assert refused.value.param == param
    assert wire.engine.requests == []


@pytest.mark.parametrize(("allowed", "shown"), [((), "?"), (("reasoning_effort",), "?low")])
async def test_effort_is_for_templates_that_may_read_it(
    files: Path, allowed: tuple[str, ...], shown: str
) -> None:
    async with running(files, template_kwargs=allowed) as wire:
        wire.will_say("ok")
        body = {"model": "", "messages": HISTORY[:1], "reasoning_effort": "low"}
        reply = await wire.client.post("/v1/chat/completions", json=body)
        assert reply.status == 200
        assert ("reasoning_effort" in reply.headers.get("x-ignored-params", "")) == (not allowed)
        given = wire.engine.requests[0].prompt_token_ids
        assert wire.tokenizer.decode(given, skip_special_tokens=False).endswith(shown)
