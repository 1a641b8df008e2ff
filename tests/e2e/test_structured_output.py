"""Fifty schemas, base and adapter, in one mixed batch with free-running neighbours."""

import asyncio
import json
import re
from typing import Any

import aiohttp
import jsonschema
import pytest

from grammar_corpus import SCHEMAS
from live_server import LiveServer

MAX_TOKENS = 220
NEIGHBOURS = [
    {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 40}
    for model in ("", "pirate")
    for text in ("Tell me about the sea.", "How do I bake bread?", "Count to twenty.")
]


async def chat(
    session: aiohttp.ClientSession, server: LiveServer, body: dict[str, Any]
) -> dict[str, Any]:
    url = f"{server.url}/v1/chat/completions"
    async with session.post(url, json={"temperature": 0, **body}) as reply:
        answer = await reply.json()
        assert reply.status == 200, answer
        return answer["choices"][0]


def new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1200))


async def chat_all(server: LiveServer, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async with new_session() as session:
        return await asyncio.gather(*(chat(session, server, body) for body in bodies))


async def streamed_chat(server: LiveServer, body: dict[str, Any]) -> tuple[str, str]:
    """Text and finish reason, put together from a stream's chunks."""
    text, reason = "", ""
    async with new_session() as session:
        url = f"{server.url}/v1/chat/completions"
        async with session.post(url, json={"temperature": 0, "stream": True, **body}) as reply:
            assert reply.status == 200, await reply.text()
            async for line in reply.content:
                field, _, data = line.decode().strip().partition(": ")
                # A line without a field's name is a comment: the server is still at work.
                if field == "data" and data != "[DONE]":
                    (choice,) = json.loads(data)["choices"]
                    text += choice["delta"].get("content") or ""
                    reason = choice["finish_reason"] or reason
    return text, reason


async def native(
    server: LiveServer, prompt: str, schema: dict[str, Any], adapter: str | None
) -> tuple[str, str]:
    parameters = {
        "adapter_id": adapter,
        "max_new_tokens": MAX_TOKENS,
        "details": True,
        "response_format": {"type": "json_object", "schema": schema},
    }
    async with new_session() as session:
        body = {"inputs": prompt, "parameters": parameters}
        async with session.post(f"{server.url}/generate", json=body) as reply:
            answer = await reply.json()
            assert reply.status == 200, answer
            return answer["generated_text"], answer["details"]["finish_reason"]


def constrained(schema: dict[str, Any], model: str) -> dict[str, Any]:
    content = f"Answer in JSON that fits this schema: {json.dumps(schema)[:300]}"
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        },
    }


@pytest.mark.slow
async def test_every_completed_output_is_valid_and_neighbours_do_not_notice(
    server: LiveServer,
) -> None:
    schemas = list(SCHEMAS.values())
    assert len(schemas) >= 50
    alone = await chat_all(server, NEIGHBOURS)
    bodies = [constrained(schema, model) for schema in schemas for model in ("", "extract")]
    # Beside them a row of the other API and one that is streamed, under schemas of the corpus.
    answers, *others = await asyncio.gather(
        chat_all(server, [*bodies, *NEIGHBOURS]),
        native(server, "Ann is 41.", SCHEMAS["person"], None),
        native(server, "Ann is 41.", SCHEMAS["person"], "extract"),
        streamed_chat(server, constrained(SCHEMAS["person"], "")),
        streamed_chat(server, constrained(SCHEMAS["person"], "extract")),
    )
    for text, reason in others:
        assert reason != "length"
        jsonschema.validate(json.loads(text), SCHEMAS["person"])
    assert answers[len(bodies) :] == alone
    num_completed = 0
    for body, answer in zip(bodies, answers, strict=False):
        if answer["finish_reason"] == "length":
            continue
        schema = body["response_format"]["json_schema"]["schema"]
        jsonschema.validate(json.loads(answer["message"]["content"]), schema)
        num_completed += 1
    assert num_completed >= 0.9 * len(bodies), f"only {num_completed} of {len(bodies)} completed"


@pytest.mark.parametrize("adapter", ["", "extract"])
async def test_any_json_object_on_both_apis(server: LiveServer, adapter: str) -> None:
    content = 'Repeat exactly this JSON and nothing else: {"sky": "blue"}'
    chat_body = {
        "model": adapter,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "response_format": {"type": "json_object"},
    }
    parameters = {
        "adapter_id": adapter,
        "max_new_tokens": MAX_TOKENS,
        "details": True,
        "response_format": {"type": "json_object"},
    }
    prompt = f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
    (choice,) = await chat_all(server, [chat_body])
    streamed = await streamed_chat(server, chat_body)
    status, reply = server.post("/generate", {"inputs": prompt, "parameters": parameters})
    assert status == 200, reply
    assert streamed == (choice["message"]["content"], choice["finish_reason"])
    for text, reason in (streamed, (reply["generated_text"], reply["details"]["finish_reason"])):
        assert reason != "length"
        assert isinstance(json.loads(text), dict)


async def test_json_regex_choice_and_grammar(server: LiveServer) -> None:
    message = {"messages": [{"role": "user", "content": "Is the sky blue?"}], "max_tokens": 60}
    bodies = [
        {**message, "model": "", "structured_outputs": {"choice": ["maybe not", "certainly"]}},
        {**message, "model": "pirate", "structured_outputs": {"regex": "[A-F]{3}-[0-9]{4}"}},
        {**message, "model": "", "structured_outputs": {"json": {"enum": [1, 2, 3]}}},
        {**message, "model": "pirate", "guided_grammar": 'start: "(" start ")" | "aye" | "nay"'},
    ]
    choice, regex, enum, grammar = await chat_all(server, bodies)
    assert choice["message"]["content"] in {"maybe not", "certainly"}
    prefix, _, digits = regex["message"]["content"].partition("-")
    assert set(prefix) <= set("ABCDEF") and len(prefix) == 3
    assert digits.isdigit() and len(digits) == 4
    assert json.loads(enum["message"]["content"]) in {1, 2, 3}
    if grammar["finish_reason"] != "length":
        opened, _, closed = re.split("(aye|nay)", grammar["message"]["content"])
        assert opened == "(" * len(closed) and closed == ")" * len(opened)


def test_lorax_schema(server: LiveServer) -> None:
    schema = {
        "type": "object",
        "properties": {"blue": {"type": "boolean"}},
        "required": ["blue"],
        "additionalProperties": False,
    }
    parameters = {
        "response_format": {"type": "json_object", "schema": schema},
        "adapter_id": "extract",
        "max_new_tokens": 60,
    }
    status, reply = server.post("/generate", {"inputs": "Is it?", "parameters": parameters})
    assert status == 200
    jsonschema.validate(json.loads(reply["generated_text"]), schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "no-such-type"}}},
        {"type": "string", "pattern": "(unclosed"},
        {"$ref": "http://127.0.0.1:1/schema.json"},
    ],
)
def test_a_schema_that_cannot_be_honoured_is_refused(
    server: LiveServer, schema: dict[str, Any]
) -> None:
    status, reply = server.post("/v1/chat/completions", constrained(schema, ""))
    assert status == 400
    assert reply["error"]["code"] in {"invalid_json_schema", "schema_too_complex"}
    assert server.get("/ready")[0] == 200
