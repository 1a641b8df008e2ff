"""The published clients, as their users call them, against both real processes."""

import asyncio

import openai
import pytest
from lorax import AsyncClient, Client
from lorax.errors import GenerationError, ValidationError
from lorax.types import MergedAdapters
from openai import AsyncOpenAI, OpenAI

from live_server import LiveServer

# lorax-client 0.6.3 calls pydantic by its old names.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

PROMPT = "<|im_start|>user\nHow do I bake bread?<|im_end|>\n<|im_start|>assistant\n"
MESSAGES = [{"role": "user", "content": "How do I bake bread?"}]
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def lorax(server: LiveServer) -> Client:
    return Client(server.url, timeout=120)


@pytest.fixture
def openai_client(server: LiveServer) -> OpenAI:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


class TestLorax:
    def test_generate_base_and_adapter_differ(self, lorax: Client) -> None:
        base = lorax.generate(PROMPT, max_new_tokens=24)
        pirate = lorax.generate(PROMPT, adapter_id="pirate", max_new_tokens=24)
        assert base.generated_text
        assert pirate.generated_text != base.generated_text
        assert base.details.generated_tokens <= 24
        assert len(base.details.tokens) == base.details.generated_tokens

    def test_the_stream_adds_up_to_the_whole(self, lorax: Client) -> None:
        whole = lorax.generate(PROMPT, adapter_id="pirate", max_new_tokens=24)
        events = list(lorax.generate_stream(PROMPT, adapter_id="pirate", max_new_tokens=24))
        assert events[-1].generated_text == whole.generated_text
        assert [event.token.id for event in events] == [t.id for t in whole.details.tokens]
        assert events[-1].details.finish_reason == whole.details.finish_reason

    def test_sampling_with_a_seed_repeats(self, lorax: Client) -> None:
        options = {"do_sample": True, "temperature": 0.9, "top_p": 0.9, "seed": 7}
        first, second = (lorax.generate(PROMPT, max_new_tokens=16, **options) for _ in range(2))
        assert first.generated_text == second.generated_text
        assert first.details.seed == 7

    def test_a_stop_string_ends_and_stays(self, lorax: Client) -> None:
        text = lorax.generate(PROMPT, max_new_tokens=24).generated_text
        stop = text[8:12]
        got = lorax.generate(PROMPT, max_new_tokens=24, stop_sequences=[stop])
        assert got.generated_text == text[: text.index(stop) + len(stop)]
        assert got.details.finish_reason == "stop_sequence"

    def test_an_unknown_adapter_is_a_generation_error(self, lorax: Client) -> None:
        with pytest.raises(GenerationError, match="no-such"):
            lorax.generate(PROMPT, adapter_id="no-such-adapter")

    def test_one_adapter_merged_is_that_adapter_times_its_weight(self, lorax: Client) -> None:
        def text(weight: float) -> str:
            merged = MergedAdapters(ids=["pirate"], weights=[weight], density=0)
            reply = lorax.generate(PROMPT, merged_adapters=merged, max_new_tokens=24)
            return str(reply.generated_text)

        base = lorax.generate(PROMPT, max_new_tokens=24).generated_text
        pirate = lorax.generate(PROMPT, adapter_id="pirate", max_new_tokens=24).generated_text
        assert text(1) == pirate
        assert text(0) == base
        assert text(1.7) not in (base, pirate)

    def test_adapters_merge_linearly(self, lorax: Client) -> None:
        """Halves of one and the same add up to it; two that differ are neither."""
        halves = MergedAdapters(ids=["pirate", "pirate"], weights=[0.5, 0.5], density=0)
        both = MergedAdapters(
            ids=["pirate", "triage"], weights=[1, 1], merge_strategy="linear", density=0
        )
        pirate, triage = (
            lorax.generate(PROMPT, adapter_id=name, max_new_tokens=24).generated_text
            for name in ("pirate", "triage")
        )
        got = lorax.generate(PROMPT, merged_adapters=halves, max_new_tokens=24)
        assert got.generated_text == pirate
        got = lorax.generate(PROMPT, merged_adapters=both, max_new_tokens=24)
        assert got.generated_text not in (pirate, triage)
        events = list(lorax.generate_stream(PROMPT, merged_adapters=both, max_new_tokens=24))
        assert events[-1].generated_text == got.generated_text

    @pytest.mark.parametrize("strategy", ["ties", "dare_linear", "dare_ties"])
    def test_every_strategy_of_the_client(self, lorax: Client, strategy: str) -> None:
        """On the adapter with the fewest targets: pruning works on dense matrices."""

        def text(density: float) -> str:
            merged = MergedAdapters(
                ids=["triage"],
                weights=[1],
                merge_strategy=strategy,
                density=density,
                majority_sign_method="frequency",
            )
            reply = lorax.generate(PROMPT, merged_adapters=merged, max_new_tokens=16)
            return str(reply.generated_text)

        whole = lorax.generate(PROMPT, adapter_id="triage", max_new_tokens=16).generated_text
        assert text(1) == whole
        assert text(0.01) != whole

    def test_a_merge_with_an_unknown_adapter(self, lorax: Client) -> None:
        merged = MergedAdapters(ids=["pirate", "no-such"], weights=[1, 1], density=0)
        with pytest.raises(GenerationError, match="no-such"):
            lorax.generate(PROMPT, merged_adapters=merged)

    def test_a_merge_that_prunes_everything(self, lorax: Client) -> None:
        merged = MergedAdapters(ids=["pirate"], weights=[1], merge_strategy="ties", density=0)
        with pytest.raises(ValidationError, match="density"):
            lorax.generate(PROMPT, merged_adapters=merged)

    def test_too_many_tokens_is_a_validation_error(self, lorax: Client) -> None:
        with pytest.raises(ValidationError):
            lorax.generate(PROMPT, max_new_tokens=100_000)

    async def test_the_async_client_streams_many_at_once(self, server: LiveServer) -> None:
        client = AsyncClient(server.url, timeout=120)

        async def text(adapter_id: str | None) -> str:
            last = None
            async for event in client.generate_stream(
                PROMPT, adapter_id=adapter_id, max_new_tokens=12
            ):
                last = event
            assert last is not None
            return last.generated_text

        names = [None, "pirate", "triage", "extract"] * 3
        texts = await asyncio.gather(*(text(name) for name in names))
        assert texts[:4] * 3 == texts


class TestOpenAI:
    def test_models_are_base_and_adapters(self, openai_client: OpenAI) -> None:
        ids = [model.id for model in openai_client.models.list()]
        assert ids[0] == BASE
        assert {"pirate", "triage", "extract"} <= set(ids)
        assert openai_client.models.retrieve("pirate").id == "pirate"
        assert openai_client.models.retrieve(BASE).id == BASE

    def test_chat(self, openai_client: OpenAI) -> None:
        reply = openai_client.chat.completions.create(
            model="triage",
            messages=[{"role": "user", "content": "The app crashes when I log in."}],
            temperature=0,
            max_tokens=10,
        )
        assert reply.model == "triage"
        assert reply.choices[0].message.content
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens

    def test_the_chat_stream_adds_up_to_the_whole(self, openai_client: OpenAI) -> None:
        options = {"model": "pirate", "messages": MESSAGES, "temperature": 0, "max_tokens": 24}
        whole = openai_client.chat.completions.create(**options)
        chunks = list(
            openai_client.chat.completions.create(
                **options, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
        assert reasons[-1] == whole.choices[0].finish_reason
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    def test_completions_and_their_stream(self, openai_client: OpenAI) -> None:
        options = {"model": BASE, "prompt": PROMPT, "temperature": 0, "max_tokens": 16}
        whole = openai_client.completions.create(**options)
        chunks = list(openai_client.completions.create(**options, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text

    def test_stop_strings_are_stripped(self, openai_client: OpenAI) -> None:
        options = {"model": BASE, "messages": MESSAGES, "temperature": 0, "max_tokens": 24}
        text = openai_client.chat.completions.create(**options).choices[0].message.content
        stop = text[8:12]
        choice = openai_client.chat.completions.create(**options, stop=[stop]).choices[0]
        assert choice.message.content == text[: text.index(stop)]
        assert choice.finish_reason == "stop"

    def test_logprobs(self, openai_client: OpenAI) -> None:
        reply = openai_client.chat.completions.create(
            model=BASE,
            messages=MESSAGES,
            temperature=0,
            max_tokens=4,
            logprobs=True,
            top_logprobs=3,
        )
        content = reply.choices[0].logprobs.content
        assert len(content) == 4
        for token in content:
            assert token.top_logprobs[0].token == token.token
            assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)

    def test_an_unknown_model_is_not_found(self, openai_client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            openai_client.chat.completions.create(model="../pirate", messages=MESSAGES)
        assert caught.value.code == "model_not_found"

    def test_a_prompt_that_is_too_long(self, openai_client: OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            openai_client.completions.create(model=BASE, prompt="word " * 20_000)
        assert caught.value.code == "context_length_exceeded"

    async def test_leaving_a_stream_leaves_the_server_well(self, server: LiveServer) -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            for _ in range(20):
                stream = await client.chat.completions.create(
                    model="pirate", messages=MESSAGES, max_tokens=2000, stream=True
                )
                async for _ in stream:
                    break
                await stream.close()
            reply = await client.chat.completions.create(
                model=BASE, messages=MESSAGES, max_tokens=2, temperature=0
            )
        assert reply.usage.completion_tokens == 2
