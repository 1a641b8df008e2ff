"""Several choices and several prompts, by the published clients."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from client_replies import MESSAGES
from fake_engine import Tokens
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from openai_types import fits
from waiting import until
from wire import Wire


async def test_chat_choices_are_branches_of_one_prompt(wire: Wire, client: Any) -> None:
    wire.will_each_say("one", "two!", "three")
    reply = await client.chat.completions.create(model="alice", messages=MESSAGES, n=3, seed=7)
    fits(reply, ChatCompletion)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert [choice.message.content for choice in reply.choices] == ["one", "two!", "three"]
    first, *others = wire.engine.requests
    assert first.after is None
    assert [each.after for each in others] == [first.request_id] * 2
    assert [each.sampling.seed for each in wire.engine.requests] == [7, 8, 9]
    assert len({each.request_id for each in wire.engine.requests}) == 3
    assert reply.usage.prompt_tokens == len(first.prompt_token_ids)
    assert reply.usage.completion_tokens == 4 + 5 + 6
    assert reply.usage.prompt_tokens_details.cached_tokens == 3


async def test_chat_stream_of_choices(wire: Wire, client: Any) -> None:
    wire.will_each_say("one", "to")
    stream = await client.chat.completions.create(
        model="", messages=MESSAGES, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    for chunk in chunks:
        fits(chunk, ChatCompletionChunk)
        assert len(chunk.choices) == (chunk is not chunks[-1])
    roles = [chunk.choices[0].delta.role for chunk in chunks[:-1]]
    assert roles == ["assistant", "assistant", *[None] * (len(roles) - 2)]
    assert [chunk.choices[0].index for chunk in chunks[:2]] == [0, 1]
    texts = {0: "", 1: ""}
    ends = []
    for chunk in chunks[:-1]:
        choice = chunk.choices[0]
        assert choice.index not in ends
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends.append(choice.index)
    assert texts == {0: "one", 1: "to"}
    assert sorted(ends) == [0, 1]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage.completion_tokens == 4 + 3


async def test_the_stream_helper_puts_choices_together(wire: Wire, client: Any) -> None:
    wire.will_each_say("one", "two")
    async with client.chat.completions.stream(model="", messages=MESSAGES, n=2) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["one", "two"]


async def test_a_stop_string_ends_its_own_choice(wire: Wire, client: Any) -> None:
    wire.will_each_say("one STOP two", "three")
    reply = await client.completions.create(model="", prompt="x", n=2, stop="STOP")
    assert [choice.text for choice in reply.choices] == ["one ", "three"]
    assert [choice.stop_reason for choice in reply.choices] == ["STOP", None]
    assert wire.engine.aborted == [wire.engine.requests[0].request_id]


async def test_completions_of_several_prompts(wire: Wire, client: Any) -> None:
    """Index = prompt x n + choice."""
    wire.will_each_say("a", "bb", "ccc", "dddd")
    reply = await client.completions.create(model="", prompt=["x", "yy"], n=2, logprobs=1)
    fits(reply, Completion)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in reply.choices] == ["a", "bb", "ccc", "dddd"]
    assert [choice.logprobs.text_offset[0] for choice in reply.choices] == [0] * 4
    requests = wire.engine.requests
    assert requests[0].prompt_token_ids == requests[1].prompt_token_ids
    assert requests[2].prompt_token_ids == requests[3].prompt_token_ids
    assert [each.after for each in requests] == [
        None,
        requests[0].request_id,
        None,
        requests[2].request_id,
    ]
    num_prompt_tokens = sum(len(requests[i].prompt_token_ids) for i in (0, 2))
    assert reply.usage.prompt_tokens == num_prompt_tokens
    assert reply.usage.completion_tokens == 2 + 3 + 4 + 5
    assert reply.usage.prompt_tokens_details.cached_tokens == 6


async def test_prompts_of_token_ids(wire: Wire, client: Any) -> None:
    wire.will_each_say("a", "b")
    reply = await client.completions.create(model="", prompt=[[5, 6], [7]])
    assert [choice.text for choice in reply.choices] == ["a", "b"]
    assert [each.prompt_token_ids for each in wire.engine.requests] == [[5, 6], [7]]


async def test_a_stream_of_prompts_and_choices(wire: Wire, client: Any) -> None:
    wire.will_each_say("a", "bb", "ccc", "dddd")
    stream = await client.completions.create(
        model="", prompt=["x", "yy"], n=2, stream=True, stream_options={"include_usage": True}
    )
    texts = dict.fromkeys(range(4), "")
    chunks = [chunk async for chunk in stream]
    for chunk in chunks[:-1]:
        assert len(chunk.choices) == 1
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "a", 1: "bb", 2: "ccc", 3: "dddd"}
    fits(chunks[-1], Completion)
    assert chunks[-1].usage.completion_tokens == 14


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_fails_fails_all_and_leaves_none(
    wire: Wire, client: Any, stream: bool
) -> None:
    wire.will_each_say("a")
    wire.engine.scripts[0] = [Tokens(wire.spell("a"))]  # goes on for ever
    wire.engine.scripts[1] = [ServeError(ErrorCode.GENERATION_ERROR, "It broke.")]
    wire.engine.scripts[2] = []
    with pytest.raises(openai.APIError) as caught:
        reply = await client.completions.create(model="", prompt=["x", "y", "z"], stream=stream)
        if stream:
            assert [chunk async for chunk in reply]
    assert caught.value.code == "generation_error"
    requests = wire.engine.requests
    assert set(wire.engine.aborted) == {requests[0].request_id, requests[2].request_id}


async def test_a_client_that_leaves_ends_every_branch(wire: Wire) -> None:
    wire.engine.script = [Tokens(wire.spell("a"))]
    body = {"model": "", "prompt": ["x", "y"], "n": 2}
    asking = asyncio.create_task(wire.client.post("/v1/completions", json=body))
    await until(lambda: len(wire.engine.requests) >= 4)
    asking.cancel()
    await until(lambda: len(wire.engine.aborted) >= 4)
    assert set(wire.engine.aborted) == {each.request_id for each in wire.engine.requests}


async def test_the_number_of_answers_is_bounded(wire: Wire, client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="", prompt=["x"] * 65, n=2)
    assert "130 answers" in caught.value.message
    assert wire.engine.requests == []
