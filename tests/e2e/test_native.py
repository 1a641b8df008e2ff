"""Every method and parameter of LoRAX's published client, and addresses that no client calls."""

import json
from typing import Any

import pytest
from lorax import AsyncClient, Client
from lorax.errors import GenerationError, ValidationError

from live_server import LiveServer

# lorax-client 0.6.3 calls pydantic by its old names.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

PROMPT = "<|im_start|>user\nHow do I bake bread?<|im_end|>\n<|im_start|>assistant\n"
# What the client's methods take, each with a value that has an effect.
EVERYTHING: dict[str, Any] = {
    "adapter_id": "pirate",
    "adapter_source": "local",
    "do_sample": True,
    "max_new_tokens": 12,
    "ignore_eos_token": True,
    "best_of": 1,
    "repetition_penalty": 1.1,
    "return_full_text": True,
    "seed": 11,
    "stop_sequences": ["never said"],
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "typical_p": 0.9,
    "watermark": False,
    "decoder_input_details": True,
    "return_k_alternatives": 3,
    "details": True,
}
STREAMED = EVERYTHING.keys() - {
    "best_of",
    "decoder_input_details",
    "details",
    "return_k_alternatives",
}


@pytest.fixture
def lorax(server: LiveServer) -> Client:
    return Client(server.url, timeout=120)


class TestClient:
    def test_every_parameter_of_generate(self, lorax: Client) -> None:
        """The same tokens as without what only changes how they are shown or what is allowed."""
        options = EVERYTHING | {"truncate": 5}
        reply = lorax.generate(PROMPT, **options)
        details = reply.details
        assert reply.generated_text.startswith(PROMPT)
        assert details.prompt_tokens == 5
        assert (details.seed, details.best_of_sequences) == (11, None)
        assert [token.logprob is None for token in details.prefill] == [True] + [False] * 4
        assert details.generated_tokens == len(details.tokens) == 12
        for token in details.tokens:
            logprobs = [other.logprob for other in token.alternative_tokens]
            assert len(logprobs) == 3
            assert logprobs == sorted(logprobs, reverse=True)
            assert all(logprob <= 0 for logprob in [*logprobs, token.logprob])
        plain = {"return_full_text": False, "details": False, "decoder_input_details": False}
        bare = lorax.generate(PROMPT, **options | plain)
        assert bare.details is None
        assert reply.generated_text == PROMPT + bare.generated_text

    def test_every_parameter_of_the_stream(self, lorax: Client) -> None:
        options = {k: v for k, v in EVERYTHING.items() if k in STREAMED}
        whole = lorax.generate(PROMPT, **options)
        *_, last = lorax.generate_stream(PROMPT, **options)
        assert last.generated_text == whole.generated_text
        assert last.details.seed == whole.details.seed == 11
        assert last.details.generated_tokens == 12

    def test_a_schema_binds_the_answer(self, lorax: Client) -> None:
        schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
        spec = {"type": "json_object", "schema": schema}
        reply = lorax.generate(PROMPT, response_format=spec, max_new_tokens=40)
        assert json.loads(reply.generated_text)["a"] in (1, 2)

    def test_truncating_is_as_if_the_end_alone_had_been_sent(
        self, lorax: Client, server: LiveServer
    ) -> None:
        status, tokens = server.post("/tokenize", {"prompt": PROMPT})
        assert status == 200
        status, end = server.post("/detokenize", {"tokens": tokens["tokens"][-6:]})
        assert status == 200
        cut = lorax.generate(PROMPT * 2000, truncate=6, max_new_tokens=8)
        assert cut.details.prompt_tokens == 6
        assert cut.generated_text == lorax.generate(end["prompt"], max_new_tokens=8).generated_text

    def test_embed(self, lorax: Client) -> None:
        """The last token's state, of length 1: a question is nearer to its like."""
        texts = ("How do I bake bread?", "How can I bake a bread?", "The ship sank in 1912.")
        one, like, other = (lorax.embed(text).embeddings for text in texts)
        assert len(one) == 576
        assert sum(x * x for x in one) == pytest.approx(1, abs=1e-5)
        assert _dot(one, like) > _dot(one, other)

    @pytest.mark.parametrize("method", ["classify", "classify_batch"])
    def test_a_decoder_cannot_classify(self, lorax: Client, method: str) -> None:
        text = ["x"] if method == "classify_batch" else "x"
        with pytest.raises(ValidationError, match="no classification head"):
            getattr(lorax, method)(text)

    async def test_the_async_client_does_the_same(self, server: LiveServer, lorax: Client) -> None:
        client = AsyncClient(server.url, timeout=120)
        options = {k: v for k, v in EVERYTHING.items() if k in STREAMED}
        whole = await client.generate(PROMPT, **options)
        assert whole.generated_text == lorax.generate(PROMPT, **options).generated_text
        with pytest.raises(GenerationError, match="no-such"):
            await client.generate(PROMPT, adapter_id="no-such")
        with pytest.raises(ValidationError, match="watermark"):
            async for _ in client.generate_stream(PROMPT, watermark=True):
                raise AssertionError
        assert (await client.embed(PROMPT)).embeddings == lorax.embed(PROMPT).embeddings
        with pytest.raises(ValidationError, match="no classification head"):
            await client.classify("x")


def _dot(one: list[float], other: list[float]) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


class TestOtherAddresses:
    """What no client of a package calls, but probes, SageMaker and scripts do."""

    @pytest.mark.parametrize("path", ["/", "/health", "/ready", "/ping", "/startup"])
    def test_probes(self, server: LiveServer, path: str) -> None:
        assert server.get(path) == (200, b"")

    def test_version_is_that_of_info(self, server: LiveServer) -> None:
        status, version = server.get("/version")
        assert status == 200
        assert json.loads(version)["version"] == json.loads(server.get("/info")[1])["version"]

    def test_invocations(self, server: LiveServer) -> None:
        body = {"inputs": PROMPT, "parameters": {"adapter_id": "pirate", "max_new_tokens": 8}}
        assert server.post("/invocations", body) == server.post("/", body)

    def test_tokens_are_those_of_the_generation(self, server: LiveServer) -> None:
        status, pieces = server.post("/tokenize", {"inputs": PROMPT})
        assert status == 200
        assert [PROMPT[piece["start"] : piece["stop"]] for piece in pieces[:2]] == [
            "<|im_start|>",
            "user",
        ]
        status, reply = server.post(
            "/generate", {"inputs": PROMPT, "parameters": {"details": True, "max_new_tokens": 2}}
        )
        assert (status, reply["details"]["prompt_tokens"]) == (200, len(pieces))
        generated = [token["id"] for token in reply["details"]["tokens"]]
        status, text = server.post("/detokenize", {"tokens": generated})
        assert (status, text) == (200, {"prompt": reply["generated_text"]})
