"""The openai package's own types as a strict judge of replies.

The package takes any unknown field in silence. Here each has to be one of `EXTENSIONS`, and each
field that is known has to have the type that it has there.
"""

import json
from collections.abc import Iterator
from typing import Any

from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

# By the `object` of a reply, or of one event of a stream.
TYPES: dict[str, type[BaseModel]] = {
    "chat.completion": ChatCompletion,
    "chat.completion.chunk": ChatCompletionChunk,
    "text_completion": Completion,
    "model": Model,
}
# vLLM's, which docs/compatibility.md names: fields that OpenAI does not have.
EXTENSIONS = {
    "choices.prompt_token_ids",
    "choices.stop_reason",
    "choices.token_ids",
    "max_model_len",
    "parent",
    "prompt_token_ids",
    "root",
}


def check_reply(reply: dict[str, Any]) -> None:
    """Raises AssertionError or pydantic's ValidationError."""
    if reply["object"] == "list":
        _check_list(reply)
        return
    if reply["object"] == "text_completion":
        _put_what_is_null(reply)
    _check(reply, TYPES[reply["object"]])


def fits(value: Any, expected: type[BaseModel]) -> None:
    """The client constructs its types unchecked; this checks what it was sent."""
    assert type(value) is expected
    expected.model_validate(value.model_dump(by_alias=True))


def check_events(body: bytes) -> int:
    """Every event of a stream but those that tell of an error. Gives the number checked."""
    *events, end = [line for line in body.split(b"\n\n") if line]
    assert end == b"data: [DONE]" or b'"error"' in end, end
    checked = 0
    for event in (*events, end):
        data = event.removeprefix(b"data: ")
        if data != b"[DONE]" and not data.startswith(b'{"error"'):
            check_reply(json.loads(data))
            checked += 1
    return checked


def _check_list(reply: dict[str, Any]) -> None:
    if reply["data"] and reply["data"][0]["object"] == "embedding":
        for item in reply["data"]:
            if isinstance(item["embedding"], str):  # base64, which the client itself decodes
                item["embedding"] = []
        _check(reply, CreateEmbeddingResponse)
        return
    assert reply.keys() == {"object", "data"}
    for item in reply["data"]:
        _check(item, Model)


def _check(reply: dict[str, Any], kind: type[BaseModel]) -> None:
    value = kind.model_validate(reply)
    unknown = set(_unknown(value)) - EXTENSIONS
    assert not unknown, f"{kind.__name__} does not know {unknown}"


def _unknown(value: Any, place: str = "") -> Iterator[str]:
    """Dotted names of fields that a type of the package does not have, lists left out of them."""
    if isinstance(value, BaseModel):
        yield from (place + name for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name), f"{place}{name}.")
    elif isinstance(value, list):
        for item in value:
            yield from _unknown(item, place)


def _put_what_is_null(reply: dict[str, Any]) -> None:
    """Where OpenAI's server sends null as we do, and its type of a completion has none: a reason
    before the last chunk, and what is said of an echoed prompt's first token.
    """
    for choice in reply["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        if choice["logprobs"] is not None:
            scores = choice["logprobs"]
            scores["token_logprobs"] = [each or 0.0 for each in scores["token_logprobs"]]
            scores["top_logprobs"] = [each or {} for each in scores["top_logprobs"]]
