"""Both shapes of LoRAX's client at once, SageMaker's address, and headers under awkward names."""

import math
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from lorax.types import AlternativeToken, Details, Response, StreamResponse, Token

from fake_engine import Tokens
from lorax_serve.ipc.types import FinishReason
from wire import Wire, running, write_files


class UnpublishedToken(Token):
    """0.7.0, which is not on PyPI, requires what 0.6.3 does not know."""

    skipped: bool


class UnpublishedDetails(Details):
    skipped_tokens: int
    tokens: list[UnpublishedToken]


class UnpublishedResponse(Response):
    details: UnpublishedDetails


class UnpublishedStreamResponse(StreamResponse):
    token: UnpublishedToken


async def post(wire: Wire, path: str, **body: object) -> Any:
    reply = await wire.client.post(path, json={"inputs": "hi", **body})
    assert reply.status == 200, await reply.text()
    return await reply.json()


def check_logprob(token: Token | AlternativeToken) -> None:
    assert math.isfinite(token.logprob)


@pytest.mark.parametrize("shape", [Response, UnpublishedResponse])
async def test_replies_fit_the_published_client_and_the_unpublished_one(
    wire: Wire, shape: type[Response]
) -> None:
    wire.will_say("ok")
    parameters = {"details": True, "return_k_alternatives": 3}
    for body in (
        (await post(wire, "/", parameters=parameters))[0],
        await post(wire, "/generate", parameters=parameters),
    ):
        details = shape.model_validate(body).details
        assert details is not None
        for token in details.tokens:
            check_logprob(token)
            assert token.alternative_tokens is not None
            assert len(token.alternative_tokens) == 3
            for alternative in token.alternative_tokens:
                check_logprob(alternative)


@pytest.mark.parametrize("shape", [StreamResponse, UnpublishedStreamResponse])
async def test_events_fit_them_too(wire: Wire, shape: type[StreamResponse]) -> None:
    wire.will_say("ok")
    body = {"inputs": "hi", "stream": True, "parameters": {"details": True}}
    reply = await wire.client.post("/", json=body)
    lines = (await reply.text()).split("\n\n")[:-1]
    events = [shape.model_validate_json(line.removeprefix("data: ")) for line in lines]
    assert len(events) == 3
    assert [event.details is None for event in events] == [True, True, False]


async def test_invocations_is_the_root(wire: Wire) -> None:
    wire.will_say("ok")
    assert await post(wire, "/invocations") == [{"generated_text": "ok"}]
    streamed, root = [
        await (await wire.client.post(path, json={"inputs": "hi", "stream": True})).text()
        for path in ("/invocations", "/")
    ]
    assert streamed == root


async def test_full_text_has_the_prompt_as_it_was_sent(wire: Wire) -> None:
    """Special tokens and all, though the answer's are left out, and though it was truncated."""
    wire.will_say("ok")
    prompt = "<|im_start|>hi  ö"
    parameters = {"return_full_text": True, "truncate": 1}
    got = await post(wire, "/generate", inputs=prompt, parameters=parameters)
    assert got == {"generated_text": prompt + "ok"}


async def test_truncate_goes_before_the_length_check(wire: Wire) -> None:
    wire.engine.script = [Tokens([wire.eos], FinishReason.EOS)]
    prompt = "a" * 1000 + "b"
    parameters = {"truncate": 3, "max_new_tokens": 253}
    await post(wire, "/generate", inputs=prompt, parameters=parameters)
    assert wire.engine.requests[0].prompt_token_ids == wire.spell("aab")
    body = {"inputs": prompt, "parameters": parameters | {"max_new_tokens": 254}}
    assert (await wire.client.post("/generate", json=body)).status == 422


LONG_NAMES = [
    "a" * 250 + "/" + "b" * 250 + "/" + "c" * 10,
    "ü" * 120 + "/" + "🦜" * 60 + "/" + "語" * 80 + "/" + "x" * 200 + "/" + "é" * 48,
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Adapters of LONG_NAMES."""
    write_files(tmp_path)
    for name in LONG_NAMES:
        folder = tmp_path / "adapters" / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (folder / "adapter_model.safetensors").touch()
    return tmp_path


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
@pytest.mark.parametrize("name", LONG_NAMES)
async def test_any_adapters_name_fits_a_header(files: Path, path: str, name: str) -> None:
    assert len(name) == 512
    async with running(files) as wire:
        wire.will_say("ok")
        body = {"inputs": "hi", "parameters": {"adapter_id": name}}
        reply = await wire.client.post(path, json=body)
        assert reply.status == 200, await reply.text()
        await reply.read()
        shown = reply.headers["x-adapter-id"]
    assert name.startswith(unquote(shown, errors="strict"))
    assert len(shown) > 500


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
@pytest.mark.parametrize(
    "name", ["a\r\nx-injected: 1", "\0", "é" * 513, "/" * 512, "%41 \u202e\u2028", "語" * 300]
)
async def test_a_name_that_leads_nowhere_is_a_json_error(wire: Wire, path: str, name: str) -> None:
    body = {"inputs": "hi", "parameters": {"adapter_id": name}}
    reply = await wire.client.post(path, json=body)
    assert (reply.status, (await reply.json())["error_type"]) == (424, "generation")
    assert "x-injected" not in reply.headers


@pytest.mark.parametrize("source", ["a\r\nx-injected: 1", "ü", "LOCAL ", "gcs"])
async def test_a_source_is_one_of_four_words(wire: Wire, source: str) -> None:
    parameters = {"adapter_id": "alice", "adapter_source": source}
    reply = await wire.client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert (reply.status, (await reply.json())["error_type"]) == (424, "generation")
    assert "x-injected" not in reply.headers
