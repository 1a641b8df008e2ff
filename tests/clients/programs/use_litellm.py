"""litellm's routes to servers like vLLM, and to Predibase."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import litellm
from asked import (
    ENDLESS,
    FACT,
    LONG,
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

VLLM: dict[str, Any] = {
    "model": "hosted_vllm/pirate",
    "api_base": f"{URL}/v1",
    "messages": MESSAGES,
    "temperature": 0,
    "max_tokens": 8,
}
FACTS = VLLM | {
    "model": "hosted_vllm/extract",
    "messages": [{"role": "user", "content": FACT}],
    "max_tokens": 60,
}
SCHEMA = {"name": "person", "schema": Person.model_json_schema()}
TOOL = {"type": "function", "function": {"name": "Person", "parameters": SCHEMA["schema"]}}
CALL = {"type": "function", "function": {"name": "Person"}}
# Without a template for it litellm joins what was said.
PREDIBASE: dict[str, Any] = {
    "model": "predibase/pirate",
    "api_base": URL,
    "predibase_tenant_id": "acme",
    "api_key": "pb_1",
    "messages": [{"role": "user", "content": PROMPT}],
    "max_tokens": 8,
}


def text(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def generations() -> Iterator[tuple[str, Any]]:
    reply = litellm.completion(**VLLM)
    yield "chat", reply.choices[0].message.content
    yield "tokens", reply.usage.completion_tokens
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(litellm.completion(**VLLM, **options))
    yield "stream", text(chunks)
    yield "streamed_tokens", chunks[-1].usage.completion_tokens


async def asynchronous(asked: dict[str, Any], endless: dict[str, Any]) -> dict[str, str]:
    left = await litellm.acompletion(**asked | endless, stream=True)
    await anext(left)
    await left.aclose()
    reply = await litellm.acompletion(**asked)
    chunks = [chunk async for chunk in await litellm.acompletion(**asked, stream=True)]
    return {"async_chat": reply.choices[0].message.content, "async_stream": text(chunks)}


def structures() -> Iterator[tuple[str, Any]]:
    for name, wanted in (
        ("parsed", {"type": "json_schema", "json_schema": SCHEMA}),
        ("json_object", {"type": "json_object"}),
    ):
        reply = litellm.completion(**FACTS, response_format=wanted)
        yield name, json.loads(reply.choices[0].message.content)
    forced = litellm.completion(**FACTS, tools=[TOOL], tool_choice=CALL)
    yield "call", calls(forced)
    chunks = list(litellm.completion(**FACTS, tools=[TOOL], tool_choice=CALL, stream=True))
    yield "streamed_call", calls(litellm.stream_chunk_builder(chunks))


def calls(reply: Any) -> list[list[Any]]:
    functions = [call.function for call in reply.choices[0].message.tool_calls]
    return [[function.name, json.loads(function.arguments)] for function in functions]


def lists() -> Iterator[tuple[str, Any]]:
    """Its way to list what a server like vLLM has never gets as far as to ask."""
    yield (
        "models",
        litellm.get_valid_models(
            check_provider_endpoint=True, custom_llm_provider="openai", api_base=URL, api_key="none"
        ),
    )
    reply = litellm.embedding("hosted_vllm/pirate", input=TEXTS, api_base=f"{URL}/v1")
    yield "embeddings", [item["embedding"] for item in reply.data]


def errors() -> Iterator[tuple[str, Any]]:
    def of(**other: Any) -> dict[str, Any]:
        return error(lambda: litellm.completion(**VLLM | other))

    yield "unknown_model", of(model="hosted_vllm/../pirate")
    yield "unknown_model_streamed", of(model="hosted_vllm/x", stream=True)
    yield "bad_value", of(temperature=9)
    yield "too_long", of(max_tokens=10**6)
    yield "broken_adapter", of(model="hosted_vllm/broken")
    yield "out_of_reach", of(model="hosted_vllm/a/b", extra_body={"adapter_source": "hub"})
    with taken_place():
        yield "busy", of(model="hosted_vllm/", api_base=f"{ONE_PLACE_URL}/v1")


def predibase() -> Iterator[tuple[str, Any]]:
    def complete(**other: Any) -> Any:
        return litellm.completion(**PREDIBASE | other)

    yield "chat", complete().choices[0].message.content
    yield "stream", text(complete(stream=True))
    endless = {"max_tokens": LONG, "ignore_eos_token": True}
    yield from asyncio.run(asynchronous(PREDIBASE, endless)).items()
    base = "predibase/HuggingFaceTB/SmolLM2-135M-Instruct"
    yield "adapter_id", complete(model=base, adapter_id="pirate").choices[0].message.content
    several = complete(n=2, temperature=0.9).choices
    yield "several", [type(choice.message.content).__name__ for choice in several]
    wanted = {"type": "json_schema", "json_schema": SCHEMA}
    reply = complete(model="predibase/extract", max_tokens=60, response_format=wanted)
    yield "parsed", json.loads(reply.choices[0].message.content)
    yield "unknown_model", error(lambda: complete(model="predibase/x"))
    yield "unknown_model_streamed", error(lambda: complete(model="predibase/x", stream=True))
    yield "bad_value", error(lambda: complete(watermark=True))
    yield "two_adapters", error(lambda: complete(adapter_id="extract"))
    yield "out_of_reach", error(lambda: complete(model="predibase/a/b", adapter_source="hub"))
    with taken_place():
        yield "busy", error(lambda: complete(model="predibase/model", api_base=ONE_PLACE_URL))


def vllm() -> Iterator[tuple[str, Any]]:
    yield from generations()
    yield from asyncio.run(asynchronous(VLLM, ENDLESS)).items()
    yield from structures()
    yield from lists()
    yield from errors()


litellm.suppress_debug_info = True
tell([("vllm", dict(vllm())), ("predibase", dict(predibase()))])
