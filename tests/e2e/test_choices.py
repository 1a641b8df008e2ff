"""Several choices and the logprobs of prompts, against both real processes."""

from collections.abc import Iterator

import pytest
from lorax import Client
from openai import OpenAI

from live_server import LiveServer

# lorax-client 0.6.3 calls pydantic by its old names.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

PROMPT = "<|im_start|>user\nHow do I bake bread?<|im_end|>\n<|im_start|>assistant\n"
MESSAGES = [{"role": "user", "content": "How do I bake bread?"}]


@pytest.fixture
def client(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("model", ["", "pirate"])
def test_choices_equal_requests_of_their_seeds(client: OpenAI, model: str) -> None:
    fields = {"model": model, "messages": MESSAGES, "max_tokens": 12}
    together = client.chat.completions.create(**fields, n=4, seed=20)
    alone = [client.chat.completions.create(**fields, seed=20 + index) for index in range(4)]
    texts = [choice.message.content for choice in together.choices]
    assert texts == [each.choices[0].message.content for each in alone]
    assert len(set(texts)) > 1
    assert together.usage.completion_tokens == sum(each.usage.completion_tokens for each in alone)
    assert together.usage.prompt_tokens == alone[0].usage.prompt_tokens


def test_streamed_choices_add_up_to_the_whole(client: OpenAI) -> None:
    fields = {"model": "pirate", "messages": MESSAGES, "max_tokens": 12, "n": 3, "seed": 5}
    whole = client.chat.completions.create(**fields)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**fields, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_prompts_together_equal_prompts_alone(client: OpenAI) -> None:
    prompts = [PROMPT, "Bread is", "One, two,"]
    fields = {"model": "", "max_tokens": 8, "temperature": 0}
    together = client.completions.create(**fields, prompt=prompts)
    alone = [client.completions.create(**fields, prompt=prompt) for prompt in prompts]
    assert [c.text for c in together.choices] == [each.choices[0].text for each in alone]
    assert together.usage.total_tokens == sum(each.usage.total_tokens for each in alone)


@pytest.mark.parametrize("model", ["", "pirate"])
def test_an_echoed_answer_has_the_logprobs_it_was_given_with(client: OpenAI, model: str) -> None:
    fields = {"model": model, "temperature": 0, "logprobs": 1}
    first = client.completions.create(**fields, prompt=PROMPT, max_tokens=12).choices[0]
    ids = first.logprobs.tokens
    echoed = client.completions.create(
        **fields, prompt=PROMPT + first.text, echo=True, max_tokens=0
    ).choices[0]
    assert echoed.text == PROMPT + first.text
    assert echoed.finish_reason == "length"
    assert echoed.logprobs.tokens[-len(ids) :] == ids
    assert echoed.logprobs.token_logprobs[0] is None
    assert echoed.logprobs.token_logprobs[-len(ids) :] == pytest.approx(
        first.logprobs.token_logprobs, abs=1e-3
    )
    offsets = echoed.logprobs.text_offset
    ends = [*offsets[1:], len(echoed.text)]
    for token, start, end in zip(echoed.logprobs.tokens, offsets, ends, strict=True):
        assert echoed.text[start:end] in (token, "")


def test_best_of_by_the_lorax_client(server: LiveServer) -> None:
    lorax = Client(server.url, timeout=120)
    reply = lorax.generate(
        PROMPT,
        best_of=3,
        do_sample=True,
        temperature=1.2,
        max_new_tokens=8,
        decoder_input_details=True,
    )
    details = reply.details
    assert len(details.best_of_sequences) == 2
    means = [
        sum(token.logprob for token in each.tokens) / len(each.tokens)
        for each in (details, *details.best_of_sequences)
    ]
    assert max(means) == means[0]
    assert len(details.prefill) == details.prompt_tokens
    assert [token.logprob is None for token in details.prefill].count(True) == 1
