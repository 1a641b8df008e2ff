"""The published openai package, as it is, against our /v1 routes; every reply fits its types."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from fake_engine import Tokens
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.errors import EngineLost, ServeError
from wire import ADAPTERS, MODEL_ID, Wire

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture
async def client(wire: Wire) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="EMPTY", max_retries=0) as made:
        yield made


def fits(value: Any, expected: type[BaseModel]) -> None:
    """The client constructs its types unchecked; this checks what it was sent."""
    assert type(value) is expected
    expected.model_validate(value.model_dump(by_alias=True))


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


async def test_logprobs_that_name_tokens_by_their_ids(wire: Wire, client: Any) -> None:
    """In chats the bytes still say what they spell."""
    wire.will_say("ö")
    extra = {"extra_body": {"return_tokens_as_token_ids": True, "return_token_ids": True}}
    reply = await client.chat.completions.create(
        model="", messages=MESSAGES, logprobs=True, top_logprobs=2, **extra
    )
    (choice,) = reply.choices
    content = choice.logprobs.content
    names = [f"token_id:{i}" for i in choice.token_ids[:-1]]  # the last one ended the answer
    assert [each.token for each in content] == names
    assert all(top.token.startswith("token_id:") for each in content for top in each.top_logprobs)
    assert b"".join(bytes(each.bytes) for each in content).decode() == "ö"
    reply = await client.completions.create(model="", prompt="x", logprobs=2, echo=True, **extra)
    (choice,) = reply.choices
    ids = [*choice.prompt_token_ids, *choice.token_ids[:-1]]
    assert choice.logprobs.tokens == [f"token_id:{i}" for i in ids]
    tops = choice.logprobs.top_logprobs[1:]
    assert all(f"token_id:{i}" in top for i, top in zip(ids[1:], tops, strict=True))
    assert all(name.startswith("token_id:") for top in tops for name in top)


async def test_chat_logprobs(wire: Wire, client: Any) -> None:
    wire.will_say("ö")
    reply = await client.chat.completions.create(
        model="", messages=MESSAGES, logprobs=True, top_logprobs=2
    )
    fits(reply, ChatCompletion)
    content = reply.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == "ö"
    assert [len(token.top_logprobs) for token in content] == [2, 2]
    assert content[0].top_logprobs[0].token == "<|endoftext|>"


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


async def test_unknown_model_is_not_found(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("no/such/model")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="nobody", messages=MESSAGES)


async def test_context_length_has_the_code_clients_match(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="", messages=MESSAGES, max_tokens=1000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="", prompt="long " * 300)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (ErrorCode.ADAPTER_INCOMPATIBLE, openai.UnprocessableEntityError),
        (ErrorCode.QUEUE_FULL, openai.RateLimitError),
        (ErrorCode.SERVER_SHUTDOWN, openai.InternalServerError),
        (ErrorCode.GENERATION_ERROR, openai.InternalServerError),
    ],
)
async def test_engine_failures(
    wire: Wire, client: Any, code: ErrorCode, raised: type[openai.APIStatusError]
) -> None:
    """Before the first byte a failure has a status of its own, in streams too."""
    wire.engine.script = [ServeError(code, "It failed.")]
    for stream in (False, True):
        with pytest.raises(raised) as caught:
            await client.chat.completions.create(model="", messages=MESSAGES, stream=stream)
        assert caught.value.code == code.value
        assert "It failed." in caught.value.message


async def test_a_stream_that_breaks_raises(wire: Wire, client: Any) -> None:
    wire.engine.script = [Tokens(wire.spell("He")), EngineLost()]
    seen = []
    with pytest.raises(openai.APIError) as caught:
        stream = await client.chat.completions.create(model="", messages=MESSAGES, stream=True)
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)
    assert seen == ["", "He"]
    assert caught.value.code == "engine_lost"


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
