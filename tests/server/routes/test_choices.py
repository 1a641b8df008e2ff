"""Several choices, several prompts, echoes, logprobs of prompts: by the published clients."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from lorax.types import Response as LoraxResponse
from openai import AsyncOpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from fake_engine import Tokens
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.errors import ServeError
from wire import Wire

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture
async def client(wire: Wire) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="EMPTY", max_retries=0) as made:
        yield made


def fits(value: Any, expected: type[BaseModel]) -> None:
    assert type(value) is expected
    expected.model_validate(value.model_dump(by_alias=True))


def will_say(wire: Wire, *texts: str) -> None:
    """The first request says the first text, the second the second, and so on."""
    for number, text in enumerate(texts, len(wire.engine.requests)):
        wire.will_say(text)
        wire.engine.scripts[number] = wire.engine.script


async def test_chat_choices_are_branches_of_one_prompt(wire: Wire, client: Any) -> None:
    will_say(wire, "one", "two!", "three")
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
    will_say(wire, "one", "to")
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
    will_say(wire, "one", "two")
    async with client.chat.completions.stream(model="", messages=MESSAGES, n=2) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["one", "two"]


async def test_a_stop_string_ends_its_own_choice(wire: Wire, client: Any) -> None:
    will_say(wire, "one STOP two", "three")
    reply = await client.completions.create(model="", prompt="x", n=2, stop="STOP")
    assert [choice.text for choice in reply.choices] == ["one ", "three"]
    assert [choice.stop_reason for choice in reply.choices] == ["STOP", None]
    assert wire.engine.aborted == [wire.engine.requests[0].request_id]


async def test_completions_of_several_prompts(wire: Wire, client: Any) -> None:
    """Index = prompt x n + choice."""
    will_say(wire, "a", "bb", "ccc", "dddd")
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
    will_say(wire, "a", "b")
    reply = await client.completions.create(model="", prompt=[[5, 6], [7]])
    assert [choice.text for choice in reply.choices] == ["a", "b"]
    assert [each.prompt_token_ids for each in wire.engine.requests] == [[5, 6], [7]]


async def test_a_stream_of_prompts_and_choices(wire: Wire, client: Any) -> None:
    will_say(wire, "a", "bb", "ccc", "dddd")
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
    will_say(wire, "a")
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
    while len(wire.engine.requests) < 4:
        await asyncio.sleep(0.01)
    asking.cancel()
    while len(wire.engine.aborted) < 4:
        await wire.engine.changed.wait()
        wire.engine.changed.clear()
    assert set(wire.engine.aborted) == {each.request_id for each in wire.engine.requests}


async def test_the_number_of_answers_is_bounded(wire: Wire, client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="", prompt=["x"] * 65, n=2)
    assert "130 answers" in caught.value.message
    assert wire.engine.requests == []


# -- best_of


async def test_best_of_shows_the_likeliest(wire: Wire, client: Any) -> None:
    """The fake engine's tokens are all alike, so the first ones are the best."""
    will_say(wire, "a", "b", "c")
    reply = await client.completions.create(model="", prompt="x", n=2, best_of=3)
    assert [choice.text for choice in reply.choices] == ["a", "b"]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert [choice.logprobs for choice in reply.choices] == [None, None]
    assert [each.sampling.num_logprobs for each in wire.engine.requests] == [0, 0, 0]
    assert reply.usage.completion_tokens == 6


@pytest.mark.parametrize(
    "fields",
    [{"best_of": 2, "stream": True}, {"n": 3, "best_of": 2}, {"best_of": 21}, {"n": 17}],
    ids=str,
)
async def test_best_of_that_makes_no_sense(client: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(model="", prompt="x", **fields)


async def test_native_best_of(wire: Wire) -> None:
    will_say(wire, "a", "bb", "ccc")
    parameters = {"best_of": 3, "do_sample": True, "details": True, "decoder_input_details": True}
    reply = await wire.client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    body = await reply.json()
    LoraxResponse.model_validate(body)
    assert body["generated_text"] == "a"
    details = body["details"]
    assert [each["generated_text"] for each in details["best_of_sequences"]] == ["bb", "ccc"]
    assert [each["generated_tokens"] for each in details["best_of_sequences"]] == [3, 4]
    seeds = [details["seed"], *(each["seed"] for each in details["best_of_sequences"])]
    assert seeds == [each.sampling.seed for each in wire.engine.requests]
    assert len(set(seeds)) == 3
    ids = wire.engine.requests[0].prompt_token_ids
    assert [token["id"] for token in details["prefill"]] == ids
    assert [token["logprob"] for token in details["prefill"]] == [None, -1.0]
    assert reply.headers["x-generated-tokens"] == "9"


@pytest.mark.parametrize(
    ("parameters", "path", "field"),
    [
        ({"best_of": 2}, "/generate", "parameters.best_of"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "/generate", "parameters.best_of"),
        ({"best_of": 2, "do_sample": True}, "/generate_stream", "parameters.best_of"),
        ({"decoder_input_details": True}, "/generate_stream", "parameters.decoder_input_details"),
    ],
)
async def test_native_refusals(
    wire: Wire, parameters: dict[str, object], path: str, field: str
) -> None:
    reply = await wire.client.post(path, json={"inputs": "hi", "parameters": parameters})
    assert reply.status == 422
    assert f"`{field}`" in (await reply.json())["error"]


async def test_prefill_alone_brings_the_details(wire: Wire) -> None:
    wire.will_say("ok")
    body = {"inputs": "hi", "parameters": {"decoder_input_details": True}}
    (reply,) = await (await wire.client.post("/", json=body)).json()
    LoraxResponse.model_validate(reply)
    assert [token["text"] for token in reply["details"]["prefill"]] == ["h", "i"]
    assert len(reply["details"]["tokens"]) == 3


# -- echo


@pytest.mark.parametrize("stream", [False, True])
async def test_echo(wire: Wire, client: Any, stream: bool) -> None:
    will_say(wire, "one", "two")
    asked = client.completions.create(model="", prompt="hi ", echo=True, n=2, stream=stream)
    assert await texts_of(await asked, stream) == ["hi one", "hi two"]
    assert wire.engine.requests[0].num_prompt_logprobs is None


async def test_an_echo_of_token_ids_is_what_they_spell(wire: Wire, client: Any) -> None:
    wire.will_say("!")
    reply = await client.completions.create(model="", prompt=wire.spell("wörd"), echo=True)
    assert reply.choices[0].text == "wörd!"


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_with_logprobs(wire: Wire, client: Any, stream: bool) -> None:
    will_say(wire, "ab", "c")
    asked = client.completions.create(
        model="", prompt="hi", echo=True, n=2, logprobs=1, stream=stream
    )
    reply = await asked
    lists = await logprobs_of(reply, stream)
    assert [each["tokens"] for each in lists] == [[*"hiab"], [*"hic"]]
    assert [each["token_logprobs"] for each in lists] == [
        [None, -1.0, -0.5, -0.5],
        [None, -1.0, -0.5],
    ]
    assert [each["text_offset"] for each in lists] == [[0, 1, 2, 3], [0, 1, 2]]
    assert lists[0]["top_logprobs"][:2] == [None, {"i": -1.0, "<|endoftext|>": -1.0}]
    assert [each.num_prompt_logprobs for each in wire.engine.requests] == [1, None]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_s_logprobs_without_an_answer(wire: Wire, client: Any, stream: bool) -> None:
    """As evaluation harnesses ask for them."""
    wire.engine.script = [Tokens(wire.spell("z"), FinishReason.LENGTH)]
    reply = await client.completions.create(
        model="",
        prompt=[wire.spell("ab"), wire.spell("cde")],
        echo=True,
        max_tokens=0,
        logprobs=0,
        temperature=0,
        stream=stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )
    chunks = [chunk async for chunk in reply] if stream else [reply]
    lists = logprobs_by_index(chunks)
    assert [each["tokens"] for each in lists] == [["a", "b"], ["c", "d", "e"]]
    assert [each["token_logprobs"] for each in lists] == [[None, -1.0], [None, -1.0, -2.0]]
    assert texts_by_index(chunks) == ["ab", "cde"]
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 0)
    ends = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert ends == ["length", "length"]
    assert [each.stop.max_new_tokens for each in wire.engine.requests] == [1, 1]


async def test_no_tokens_without_an_echo_is_refused(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="", prompt="x", max_tokens=0)
    assert caught.value.param == "max_tokens"


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


async def test_special_tokens_in_an_echoed_text_have_their_places(wire: Wire, client: Any) -> None:
    wire.engine.script = [Tokens(wire.spell("z"), FinishReason.LENGTH)]
    text = "<|im_start|>ö<|im_end|>!"
    for prompt, shown in ((text, text), ([wire.token(b"<|im_end|>"), *wire.spell("a")], "a")):
        reply = await client.completions.create(
            model="", prompt=prompt, echo=True, max_tokens=0, logprobs=0
        )
        choice = reply.choices[0]
        assert choice.text == shown
        ends = [*choice.logprobs.text_offset[1:], len(shown)]
        pieces = [
            shown[start:end] for start, end in zip(choice.logprobs.text_offset, ends, strict=True)
        ]
        assert "".join(pieces) == shown
        assert pieces[0] == ("<|im_start|>" if prompt == text else "")
        assert pieces[-1] == shown[-1]
