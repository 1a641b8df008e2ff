"""Wrong values in the fields of /v1: one sentence with a 4xx."""

import pytest

from bad_fields import OPENAI_FIELDS
from refusals import OPENAI, openai_body, refused, serves_on
from wire import Wire


@pytest.mark.parametrize("path", OPENAI)
@pytest.mark.parametrize(("name", "value"), OPENAI_FIELDS, ids=lambda value: str(value)[:40])
async def test_openai_fields(wire: Wire, path: str, name: str, value: object) -> None:
    reply = await wire.client.post(path, json=openai_body(path, **{name: value}))
    sentence, code = await refused(reply, 400)
    assert code in {
        "invalid_request",
        "unsupported_parameter",
        "context_length_exceeded",
        "invalid_json_schema",
        "invalid_regex",
        "invalid_grammar",
    }
    assert "secret" not in sentence
    await serves_on(wire)


async def test_unserved_fields_are_refused_by_name(wire: Wire) -> None:
    reply = await wire.client.post(OPENAI[0], json=openai_body(OPENAI[0], bad_words=["x"]))
    error = (await reply.json())["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "bad_words")
    assert "`bad_words`" in error["message"]


CHAT_ONLY: list[dict[str, object]] = [
    {"messages": []},
    {"messages": "hi"},
    {"messages": [{"content": "no role"}]},
    {"messages": [{"role": "wizard", "content": "x"}]},
    {"messages": [{"role": "user", "tool_calls": [{"function": {"name": "f"}}]}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"role": "user", "content": "x"}] * 4097},
    {"logprobs": 3},
    {"top_logprobs": 3},
    {"logprobs": True, "top_logprobs": 21},
    {"max_tokens": 3, "max_completion_tokens": 4},
]


@pytest.mark.parametrize("fields", CHAT_ONLY, ids=lambda fields: str(fields)[:60])
async def test_chat_bodies(wire: Wire, fields: dict[str, object]) -> None:
    body = openai_body("chat") | fields
    await refused(await wire.client.post("/v1/chat/completions", json=body), 400)
    await serves_on(wire)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        [],
        [""],
        [[]],
        [[1], []],
        ["a", ""],
        ["a"] * 129,
        [1, "a"],
        ["a", [1, "b"]],
        [384],
        [-1],
        [True],
        5,
        {},
    ],
)
async def test_completion_prompts(wire: Wire, prompt: object) -> None:
    body = {"model": "", "prompt": prompt}
    await refused(await wire.client.post("/v1/completions", json=body), 400)
    await serves_on(wire)


@pytest.mark.parametrize("body", [{"prompt": "x"}, {"model": ""}, {"model": "", "logprobs": 21}])
async def test_completion_bodies(wire: Wire, body: dict[str, object]) -> None:
    await refused(await wire.client.post("/v1/completions", json=body), 400)
