"""Requests as clients send them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from frontend_bench.model import pages_text


@dataclass(frozen=True)
class Call:
    path: str
    body: bytes


def native_stream(prompt: str, num_tokens: int) -> Call:
    parameters = {"max_new_tokens": num_tokens}
    return _call("/generate_stream", inputs=prompt, parameters=parameters)


def chat_stream(prompt: str, num_tokens: int) -> Call:
    messages = [{"role": "user", "content": prompt}]
    return _call(
        "/v1/chat/completions",
        model="model",
        messages=messages,
        max_tokens=num_tokens,
        stream=True,
    )


STREAMS: dict[str, Callable[[str, int], Call]] = {"native": native_stream, "chat": chat_stream}


def long_calls(num_bytes: int) -> dict[str, Call]:
    """What a long prompt can be, and what can be asked of one; each for one token."""
    pages = pages_text()
    text = (pages * (num_bytes // len(pages) + 1))[:num_bytes]
    messages = [{"role": "user", "content": text}]
    conversation = [
        {"role": "user", "content": text[i : i + 500]} for i in range(0, len(text), 500)
    ]
    ids = [500 + place % 500 for place in range(num_bytes // 5)]
    drawn = Random(0)
    dense = "".join(chr(drawn.randrange(0x21, 0x7F)) for _ in range(num_bytes))
    parameters = {"max_new_tokens": 1}
    completion = {"model": "model", "max_tokens": 1}
    return {
        "text": _call("/generate", inputs=text, parameters=parameters),
        "one_word": _call("/generate", inputs="ab" * (num_bytes // 2), parameters=parameters),
        "dense": _call("/generate", inputs=dense, parameters=parameters),
        "escaped": _call("/generate", inputs="\x01" * (num_bytes // 6), parameters=parameters),
        "token_ids": _call("/v1/completions", prompt=ids, **completion),
        "chat": _call("/v1/chat/completions", messages=messages, **completion),
        "many_messages": _call("/v1/chat/completions", messages=conversation, **completion),
        "echo": _call("/v1/completions", prompt=text, echo=True, logprobs=1, **completion),
        "echo_streamed": _call(
            "/v1/completions", prompt=text, echo=True, logprobs=1, stream=True, **completion
        ),
        "echo_ids": _call("/v1/completions", prompt=ids, echo=True, logprobs=1, **completion),
        "prefill": _call(
            "/generate", inputs=text, parameters={**parameters, "decoder_input_details": True}
        ),
        "tokenize": _call("/tokenize", inputs=text),
        "tokenize_dense": _call("/tokenize", inputs=dense),
        "tokenize_strings": _call("/tokenize", prompt=text, return_token_strs=True),
        "detokenize": _call("/detokenize", tokens=ids),
    }


def _call(path: str, **fields: object) -> Call:
    return Call(path, json.dumps(fields).encode())
