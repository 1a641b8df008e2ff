"""The published openai package, as it is, against our /v1 routes; every reply fits its types."""

from typing import Any

import openai
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from client_replies import MESSAGES
from fake_engine import Tokens
from lorax_serve.ipc.types import FinishReason
from openai_types import fits
from wire import ADAPTERS, MODEL_ID, Wire


async def test_chat(wire: Wire, client: Any) -> None:
    wire.will_say("Hello wörld")
    reply = await client.chat.completions.create(model="alice", messages=MESSAGES)
    fits(reply, ChatCompletion)
    assert reply.model == "alice"
    assert reply.id.startswith("chatcmpl-")
    assert reply.system_fingerprint.startswith("fp_")
    assert reply.choices[0].message.content == "Hello wörld"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].logprobs is None
    assert reply.usage.prompt_tokens == len(wire.engine.requests[0].prompt_token_ids)
    assert reply.usage.completion_tokens == 13
    assert reply.usage.prompt_tokens_details.cached_tokens == 3
    prompt = wire.tokenizer.decode(
        wire.engine.requests[0].prompt_token_ids, skip_special_tokens=False
    )
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("path", ["chat", "completions"])
async def test_only_the_end_of_a_long_prompt(wire: Wire, client: Any, path: str) -> None:
    def ask(**body: object) -> Any:
        if path == "chat":
            return client.chat.completions.create(model="", messages=MESSAGES, extra_body=body)
        return client.completions.create(model="", prompt="a long prompt", extra_body=body)

    wire.will_say("ok")
    for body in ({}, {"truncate_prompt_tokens": 3}):
        await ask(**body)
    whole, end = [request.prompt_token_ids for request in wire.engine.requests]
    assert len(whole) > 3
    assert end == whole[-3:]
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(truncate_prompt_tokens=256)
    assert (caught.value.param, caught.value.code) == ("truncate_prompt_tokens", "invalid_request")


async def test_chat_stream_order(wire: Wire, client: Any) -> None:
    wire.will_say("Hi ö")
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="alice",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    for chunk in chunks:
        fits(chunk, ChatCompletionChunk)
    first, *contents, finish, usage = chunks
    delta = first.choices[0].delta
    assert (delta.role, delta.content) == ("assistant", "")
    assert [chunk.choices[0].delta.content for chunk in contents] == ["H", "i", " ", "ö"]
    assert all(chunk.choices[0].delta.role is None for chunk in contents)
    assert finish.choices[0].delta.model_dump(exclude_unset=True) == {}
    assert finish.choices[0].finish_reason == "stop"
    assert usage.choices == []
    assert usage.usage.total_tokens == usage.usage.prompt_tokens + 6
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks[:-1])
    for field in ("id", "created", "model", "system_fingerprint"):
        assert len({getattr(chunk, field) for chunk in chunks}) == 1


async def test_usage_is_absent_unless_asked_for(wire: Wire, client: Any) -> None:
    wire.will_say("Hi")
    chunks = await client.chat.completions.create(model="", messages=MESSAGES, stream=True)
    assert all(["usage" not in chunk.model_fields_set async for chunk in chunks])


async def test_usage_in_every_chunk(wire: Wire, client: Any) -> None:
    wire.will_say("Hi")
    chunks = await client.chat.completions.create(
        model="",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    )
    counts = [chunk.usage.completion_tokens async for chunk in chunks]
    assert counts == [1, 1, 2, 3, 3]


async def test_stream_helper(wire: Wire, client: Any) -> None:
    wire.will_say("Hello")
    async with client.chat.completions.stream(model="", messages=MESSAGES) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello"


async def test_stop_string_is_cut_off_and_never_leaks(wire: Wire, client: Any) -> None:
    wire.will_say("one STOP two", finish=None)
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="", messages=MESSAGES, stream=True, stop="STOP"
        )
    ]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "one "
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].choices[0].stop_reason == "STOP"
    assert len(wire.engine.aborted) == 1


async def test_text_held_back_for_a_stop_string_is_given_in_the_end(
    wire: Wire, client: Any
) -> None:
    wire.will_say("one STO")
    chunks = await client.chat.completions.create(
        model="", messages=MESSAGES, stream=True, stop=["STOP"]
    )
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == "one STO"


async def test_stop_token_is_named(wire: Wire, client: Any) -> None:
    wire.engine.script = [Tokens(wire.spell("ab"), FinishReason.STOP_TOKEN)]
    (stop_id,) = wire.spell("b")
    reply = await client.chat.completions.create(
        model="", messages=MESSAGES, extra_body={"stop_token_ids": [stop_id]}
    )
    assert reply.choices[0].message.content == "a"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].stop_reason == stop_id
    assert wire.engine.requests[0].stop.stop_token_ids == (stop_id,)


async def test_length(wire: Wire, client: Any) -> None:
    wire.will_say("abc", FinishReason.LENGTH)
    reply = await client.chat.completions.create(model="", messages=MESSAGES, max_tokens=3)
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content == "abc"
    assert reply.choices[0].stop_reason is None


async def test_models(client: Any) -> None:
    models = (await client.models.list()).data
    for model in models:
        fits(model, Model)
    assert [model.id for model in models] == [MODEL_ID, *sorted(ADAPTERS)]
    assert [model.parent for model in models] == [None, MODEL_ID, MODEL_ID, MODEL_ID]
    assert {model.max_model_len for model in models} == {256}


@pytest.mark.parametrize("model_id", [MODEL_ID, *ADAPTERS])
async def test_model_ids_with_slashes_and_letters(client: Any, model_id: str) -> None:
    model = await client.models.retrieve(model_id)
    assert model.id == model_id
    assert "/" not in model.root.removeprefix("local:").replace(model_id, "")
