"""Prompts in replies: echoed, with their tokens' logprobs, and without an answer at all."""

from typing import Any

import openai
import pytest
from lorax.types import Response as LoraxResponse

from client_replies import logprobs_by_index, logprobs_of, texts_by_index, texts_of
from fake_engine import Tokens
from lorax_serve.ipc.types import FinishReason
from wire import Wire


async def test_prefill_alone_brings_the_details(wire: Wire) -> None:
    wire.will_say("ok")
    body = {"inputs": "hi", "parameters": {"decoder_input_details": True}}
    (reply,) = await (await wire.client.post("/", json=body)).json()
    LoraxResponse.model_validate(reply)
    assert [token["text"] for token in reply["details"]["prefill"]] == ["h", "i"]
    assert len(reply["details"]["tokens"]) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_echo(wire: Wire, client: Any, stream: bool) -> None:
    wire.will_each_say("one", "two")
    asked = client.completions.create(model="", prompt="hi ", echo=True, n=2, stream=stream)
    assert await texts_of(await asked, stream) == ["hi one", "hi two"]
    assert wire.engine.requests[0].num_prompt_logprobs is None


async def test_an_echo_of_token_ids_is_what_they_spell(wire: Wire, client: Any) -> None:
    wire.will_say("!")
    reply = await client.completions.create(model="", prompt=wire.spell("wörd"), echo=True)
    assert reply.choices[0].text == "wörd!"


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_with_logprobs(wire: Wire, client: Any, stream: bool) -> None:
    wire.will_each_say("ab", "c")
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
