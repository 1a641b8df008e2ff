"""langchain-openai."""

import asyncio
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from asked import (
    ENDLESS,
    FACT,
    ONE_PLACE_URL,
    QUESTION,
    TEXTS,
    URL,
    Person,
    error,
    taken_place,
    tell,
)
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

SERVER: dict[str, Any] = {"base_url": f"{URL}/v1", "api_key": "none", "max_retries": 0}


def chat(**options: Any) -> ChatOpenAI:
    asked = {"model": "pirate", "temperature": 0, "max_tokens": 8, "stream_usage": True}
    return ChatOpenAI(**SERVER | asked | options)


def generations() -> Iterator[tuple[str, Any]]:
    reply = chat().invoke(QUESTION)
    yield "chat", reply.content
    yield "tokens", reply.usage_metadata["output_tokens"]
    chunks = list(chat().stream(QUESTION))
    yield "stream", "".join(chunk.content for chunk in chunks)
    yield "streamed_tokens", sum((c.usage_metadata or {}).get("output_tokens", 0) for c in chunks)


async def asynchronous() -> dict[str, str]:
    reply = await chat().ainvoke(QUESTION)
    parts = [chunk.content async for chunk in chat().astream(QUESTION)]
    return {"async_chat": reply.content, "async_stream": "".join(parts)}


def structures() -> Iterator[tuple[str, Any]]:
    extract = chat(model="extract", max_tokens=60)
    yield "parsed", extract.with_structured_output(Person).invoke(FACT).model_dump()
    free = extract.with_structured_output(method="json_mode")
    yield "json_object", free.invoke(FACT)
    forced = extract.bind_tools([Person], tool_choice="Person")
    yield "call", [[call["name"], call["args"]] for call in forced.invoke(FACT).tool_calls]
    first, *rest = forced.stream(FACT)
    whole = sum(rest, first)
    yield "streamed_call", [[call["name"], call["args"]] for call in whole.tool_calls]


def vectors() -> Iterator[tuple[str, Any]]:
    """Unless it is told to leave that, it sends ids of an OpenAI model's vocabulary. tiktoken would
    ask the internet for it; litellm's package has it.
    """
    (litellm,) = find_spec("litellm").submodule_search_locations
    os.environ["TIKTOKEN_CACHE_DIR"] = f"{litellm}/litellm_core_utils/tokenizers"
    made: dict[str, Any] = {"model": "pirate", **SERVER}
    embeddings = OpenAIEmbeddings(**made, check_embedding_ctx_length=False)
    yield "embeddings", embeddings.embed_documents(TEXTS)
    yield "foreign_ids", error(lambda: OpenAIEmbeddings(**made).embed_documents(TEXTS))


def errors() -> Iterator[tuple[str, Any]]:
    yield "unknown_model", error(lambda: chat(model="../pirate").invoke(QUESTION))
    yield "unknown_model_streamed", error(lambda: next(chat(model="x").stream(QUESTION)))
    yield "bad_value", error(lambda: chat(temperature=9).invoke(QUESTION))
    yield "too_long", error(lambda: chat(max_tokens=10**6).invoke(QUESTION))
    yield "broken_adapter", error(lambda: chat(model="broken").invoke(QUESTION))
    hub = chat(model="a/b", extra_body={"adapter_source": "hub"})
    yield "out_of_reach", error(lambda: hub.invoke(QUESTION))
    with taken_place():
        hasty = chat(model="", base_url=f"{ONE_PLACE_URL}/v1")
        yield "busy", error(lambda: hasty.invoke(QUESTION))


def results() -> Iterator[tuple[str, Any]]:
    left = chat(**ENDLESS).stream(QUESTION)
    next(left)
    left.close()
    yield from generations()
    yield from asyncio.run(asynchronous()).items()
    yield from structures()
    yield from vectors()
    yield from errors()


tell(results())
