"""/v1/completions by the published openai package; every reply fits its types."""

from typing import Any

import openai
import pytest
from openai.types import Completion

from openai_types import fits
from wire import MODEL_ID, Wire


async def test_min_tokens(wire: Wire, client: Any) -> None:
    """No stop string is looked for in them; the engine is told of the rest."""
    wire.will_say("STOP STOP")
    asked = {"stop": ["STOP"], "extra_body": {"min_tokens": 4}}
    reply = await client.completions.create(model="", prompt="x", max_tokens=20, **asked)
    assert reply.choices[0].text == "STOP "
    assert reply.choices[0].stop_reason == "STOP"
    assert wire.engine.requests[0].stop.min_new_tokens == 4
    with pytest.raises(openai.BadRequestError, match="`min_tokens` is more than `max_tokens`"):
        await client.completions.create(model="", prompt="x", max_tokens=3, **asked)


async def test_completion(wire: Wire, client: Any) -> None:
    wire.will_say("Hello")
    reply = await client.completions.create(model=MODEL_ID, prompt="hi", logprobs=1, max_tokens=9)
    fits(reply, Completion)
    assert reply.id.startswith("cmpl-")
    assert reply.choices[0].text == "Hello"
    logprobs = reply.choices[0].logprobs
    assert logprobs.tokens == [*"Hello"]
    assert logprobs.text_offset == [0, 1, 2, 3, 4]
    assert logprobs.token_logprobs == [-0.5] * 5
    assert logprobs.top_logprobs[0] == {"H": -0.5, "<|endoftext|>": -1.0}
    assert wire.engine.requests[0].adapter is None


async def test_completion_of_token_ids(wire: Wire, client: Any) -> None:
    wire.will_say("x")
    await client.completions.create(model="", prompt=[5, 6, 7])
    await client.completions.create(model="", prompt=[[5, 6]])
    await client.completions.create(model="", prompt=["hi"])
    prompts = [request.prompt_token_ids for request in wire.engine.requests]
    assert prompts == [[5, 6, 7], [5, 6], wire.tokenizer.encode("hi", add_special_tokens=True)]


async def test_completion_stream(wire: Wire, client: Any) -> None:
    wire.will_say("Hi ö")
    chunks = [
        chunk
        async for chunk in await client.completions.create(
            model="", prompt="hi", stream=True, logprobs=0, stream_options={"include_usage": True}
        )
    ]
    *texts, finish, usage = chunks
    assert [chunk.choices[0].text for chunk in texts] == ["H", "i", " ", "", "ö"]
    assert [chunk.choices[0].finish_reason for chunk in texts] == [None] * 5
    offsets = [chunk.choices[0].logprobs.text_offset for chunk in texts]
    assert offsets == [[0], [1], [2], [3], [3]]
    assert (finish.choices[0].text, finish.choices[0].finish_reason) == ("", "stop")
    fits(finish, Completion)
    fits(usage, Completion)
    assert usage.usage.completion_tokens == 6


async def test_request_id_is_shown(wire: Wire, client: Any) -> None:
    wire.will_say("x")
    reply = await client.completions.create(
        model="", prompt="x", extra_headers={"x-request-id": "my-own"}
    )
    assert reply._request_id == "my-own"


async def test_sampling_defaults(wire: Wire, client: Any) -> None:
    """An absent temperature samples at 1; zero is greedy."""
    wire.will_say("x")
    await client.completions.create(model="", prompt="x")
    await client.completions.create(model="", prompt="x", temperature=0)
    temperatures = [request.sampling.temperature for request in wire.engine.requests]
    assert temperatures == [1.0, 0.0]
    assert wire.engine.requests[0].sampling.seed != wire.engine.requests[1].sampling.seed
