"""A chat for the openai package to ask, and its replies put together by the index of choices."""

import json
from typing import Any

MESSAGES: Any = [{"role": "user", "content": "hi"}]


async def texts_of(reply: Any, stream: bool) -> list[str]:
    return texts_by_index([chunk async for chunk in reply] if stream else [reply])


async def logprobs_of(reply: Any, stream: bool) -> list[dict[str, list[Any]]]:
    return logprobs_by_index([chunk async for chunk in reply] if stream else [reply])


def texts_by_index(chunks: list[Any]) -> list[str]:
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return [texts[index] for index in sorted(texts)]


def logprobs_by_index(chunks: list[Any]) -> list[dict[str, list[Any]]]:
    """Joined, each choice's lists."""
    joined: dict[int, dict[str, list[Any]]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            lists = joined.setdefault(choice.index, {})
            if choice.logprobs is not None:
                for name, values in json.loads(choice.logprobs.model_dump_json()).items():
                    lists.setdefault(name, []).extend(values)
    return [joined[index] for index in sorted(joined)]
