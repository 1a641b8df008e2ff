"""OpenAI's client, 1.x and later."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
from asked import (
    ENDLESS,
    FACT,
    MESSAGES,
    ONE_PLACE_URL,
    PROMPT,
    TEXTS,
    URL,
    Person,
    error,
    taken_place,
    tell,
)
from openai import AsyncOpenAI, OpenAI

CHAT: dict[str, Any] = {"model": "pirate", "messages": MESSAGES, "temperature": 0, "max_tokens": 8}
FACTS: dict[str, Any] = {
    "model": "extract",
    "messages": [{"role": "user", "content": FACT}],
    "temperature": 0,
    "max_tokens": 60,
}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
TOOL = openai.pydantic_function_tool(Person)
CALL = {"type": "function", "function": {"name": "Person"}}

client = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
create = client.chat.completions.create


def generations() -> Iterator[tuple[str, Any]]:
    reply = create(**CHAT)
    yield "chat", reply.choices[0].message.content
    yield "tokens", reply.usage.completion_tokens
    chunks = list(create(**CHAT, **USAGE))
    yield "stream", "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    yield "streamed_tokens", chunks[-1].usage.completion_tokens
    options = {"model": "pirate", "prompt": PROMPT, "temperature": 0, "max_tokens": 8}
    yield "completion", client.completions.create(**options).choices[0].text
    chunks = list(client.completions.create(**options, stream=True))
    yield "completion_stream", "".join(chunk.choices[0].text for chunk in chunks)


async def asynchronous() -> dict[str, str]:
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0) as patient:
        reply = await patient.chat.completions.create(**CHAT)
        chunks = await patient.chat.completions.create(**CHAT, stream=True)
        parts = [chunk.choices[0].delta.content or "" async for chunk in chunks]
    return {"async_chat": reply.choices[0].message.content, "async_stream": "".join(parts)}


def structures() -> Iterator[tuple[str, Any]]:
    parsed = client.chat.completions.parse(**FACTS, response_format=Person)
    yield "parsed", parsed.choices[0].message.parsed.model_dump()
    schemaless = create(**FACTS, response_format={"type": "json_object"})
    yield "json_object", json.loads(schemaless.choices[0].message.content)
    forced = create(**FACTS, tools=[TOOL], tool_choice=CALL)
    yield (
        "call",
        [
            [call.function.name, json.loads(call.function.arguments)]
            for call in forced.choices[0].message.tool_calls
        ],
    )
    chunks = list(create(**FACTS, tools=[TOOL], tool_choice=CALL, stream=True))
    parts = [part.function for c in chunks for part in c.choices[0].delta.tool_calls or []]
    arguments = "".join(part.arguments or "" for part in parts)
    yield "streamed_call", [[parts[0].name, json.loads(arguments)]]


def lists() -> Iterator[tuple[str, Any]]:
    yield "models", [model.id for model in client.models.list()]
    yield "model", client.models.retrieve("pirate").id
    yield (
        "embeddings",
        [item.embedding for item in client.embeddings.create(model="pirate", input=TEXTS).data],
    )


def errors() -> Iterator[tuple[str, Any]]:
    yield "unknown_model", error(lambda: create(**CHAT | {"model": "../pirate"}))
    yield "unknown_model_streamed", error(lambda: create(**CHAT | {"model": "x"}, stream=True))
    yield "bad_value", error(lambda: create(**CHAT | {"temperature": 9}))
    yield "too_long", error(lambda: create(**CHAT | {"max_tokens": 10**6}))
    yield "broken_adapter", error(lambda: create(**CHAT | {"model": "broken"}))
    hub = {"adapter_source": "hub"}
    yield "out_of_reach", error(lambda: create(**CHAT | {"model": "a/b"}, extra_body=hub))


def busy() -> Iterator[tuple[str, Any]]:
    """One call is refused, another one waits as long as it is told to and then has the place."""
    seen: list[tuple[int, str | None]] = []

    def give_way(response: Any) -> None:
        seen.append((response.status_code, response.headers.get("retry-after")))
        leave()

    asked: dict[str, Any] = {"model": "", "prompt": [60], "max_tokens": 2}
    address: dict[str, Any] = {"base_url": f"{ONE_PLACE_URL}/v1", "api_key": "none"}
    with taken_place() as leave:
        hasty = OpenAI(**address, max_retries=0)
        yield "busy", error(lambda: hasty.completions.create(**asked))
        hooks = {"response": [give_way]}
        patient = OpenAI(
            **address, max_retries=9, http_client=openai.DefaultHttpxClient(event_hooks=hooks)
        )
        yield "retried", patient.completions.create(**asked).usage.completion_tokens
    yield "replies", seen


def results() -> Iterator[tuple[str, Any]]:
    yield "version", openai.__version__
    left = create(**CHAT | ENDLESS, stream=True)
    next(iter(left))
    left.close()
    yield from generations()
    yield from asyncio.run(asynchronous()).items()
    yield from structures()
    yield from lists()
    yield from errors()
    yield from busy()


tell(results())
