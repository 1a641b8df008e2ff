"""llama-index's OpenAILike, for models and for embeddings."""

import asyncio
from collections.abc import Iterator
from typing import Any

from asked import (
    ENDLESS,
    FACT,
    ONE_PLACE_URL,
    PROMPT,
    QUESTION,
    TEXTS,
    URL,
    Person,
    error,
    taken_place,
    tell,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

SERVER: dict[str, Any] = {"api_base": f"{URL}/v1", "api_key": "none", "max_retries": 0}
SAID = [ChatMessage(role="user", content=QUESTION)]


def model(**options: Any) -> OpenAILike:
    return OpenAILike(**SERVER | {"model": "pirate", "temperature": 0, "max_tokens": 8} | options)


def chat(**options: Any) -> OpenAILike:
    return model(is_chat_model=True, **options)


def generations() -> Iterator[tuple[str, Any]]:
    reply = chat().chat(SAID)
    yield "chat", reply.message.content
    yield "stream", "".join(part.delta or "" for part in chat().stream_chat(SAID))
    yield "completion", model().complete(PROMPT).text
    yield "completion_stream", "".join(p.delta or "" for p in model().stream_complete(PROMPT))


async def asynchronous() -> dict[str, Any]:
    reply = await chat().achat(SAID)
    parts = [part.delta or "" async for part in await chat().astream_chat(SAID)]
    return {"async_chat": reply.message.content, "async_stream": "".join(parts)}


def structures() -> Iterator[tuple[str, Any]]:
    options: dict[str, Any] = {"model": "extract", "max_tokens": 60}
    strict = chat(should_use_structured_outputs=True, **options).as_structured_llm(Person)
    yield "parsed", strict.complete(FACT).raw.model_dump()
    caller = chat(is_function_calling_model=True, **options)
    tool = FunctionTool.from_defaults(fn=lambda age: age, name="Person", fn_schema=Person)
    asked: dict[str, Any] = {
        "user_msg": FACT,
        "tool_required": True,
        "allow_parallel_tool_calls": False,
    }
    reply = caller.chat_with_tools([tool], **asked)
    yield "call", calls(caller, reply)
    yield "streamed_call", calls(caller, list(caller.stream_chat_with_tools([tool], **asked))[-1])


def calls(caller: OpenAILike, reply: Any) -> list[list[Any]]:
    found = caller.get_tool_calls_from_response(reply)
    return [[call.tool_name, call.tool_kwargs] for call in found]


def errors() -> Iterator[tuple[str, Any]]:
    yield "unknown_model", error(lambda: chat(model="../pirate").chat(SAID))
    yield "unknown_model_streamed", error(lambda: next(chat(model="x").stream_chat(SAID)))
    yield "bad_value", error(lambda: chat(additional_kwargs={"top_p": 9}).chat(SAID))
    yield "too_long", error(lambda: chat(max_tokens=10**6).chat(SAID))
    yield "broken_adapter", error(lambda: chat(model="broken").chat(SAID))
    hub = {"extra_body": {"adapter_source": "hub"}}
    yield "out_of_reach", error(lambda: chat(model="a/b", additional_kwargs=hub).chat(SAID))
    with taken_place():
        hasty = chat(model="model", api_base=f"{ONE_PLACE_URL}/v1")
        yield "busy", error(lambda: hasty.chat(SAID))


def results() -> Iterator[tuple[str, Any]]:
    left = chat(additional_kwargs=ENDLESS).stream_chat(SAID)
    next(left)
    left.close()
    yield from generations()
    yield from asyncio.run(asynchronous()).items()
    yield from structures()
    yield (
        "embeddings",
        OpenAILikeEmbedding(model_name="pirate", **SERVER).get_text_embedding_batch(TEXTS),
    )
    yield from errors()


tell(results())
