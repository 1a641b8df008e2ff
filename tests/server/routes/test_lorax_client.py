"""The published lorax-client, as it is, against our native routes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from lorax import AsyncClient, Client
from lorax.errors import (
    BadRequestError,
    GenerationError,
    IncompleteGenerationError,
    NotFoundError,
    OverloadedError,
    UnknownError,
    ValidationError,
)
from lorax.types import MergedAdapters as LoraxMerge
from requests import PreparedRequest, Session

from fake_engine import Tokens
from lorax_calls import call
from lorax_serve.ipc.types import (
    ErrorCode,
    FinishReason,
    MajoritySignMethod,
    MergedAdapters,
    MergeStrategy,
)
from lorax_serve.server.errors import EngineLost, ServeError
from lorax_serve.server.service import Limits
from wire import Wire, running

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


async def test_generate(wire: Wire) -> None:
    wire.will_say("Hello wörld")
    reply = await call(
        wire, lambda client: client.generate("hi", adapter_id="alice", return_k_alternatives=2)
    )
    assert reply.generated_text == "Hello wörld"
    assert reply.details is not None
    assert reply.details.finish_reason.value == "eos_token"
    assert reply.details.prompt_tokens == 2
    assert reply.details.tokens[0].alternative_tokens[0].text == "<|endoftext|>"


async def test_generate_with_everything_the_client_can_send(wire: Wire) -> None:
    wire.will_say("ok")
    await call(
        wire,
        lambda client: client.generate(
            "hi",
            adapter_id="team/ops",
            adapter_source="local",
            do_sample=True,
            max_new_tokens=9,
            ignore_eos_token=True,
            best_of=1,
            repetition_penalty=1.5,
            return_full_text=True,
            seed=2**64 - 1,
            stop_sequences=["x"],
            temperature=0.5,
            top_k=3,
            top_p=0.5,
            truncate=1,
            typical_p=0.5,
            response_format={"type": "json_object", "schema": {"type": "object"}},
        ),
    )
    (told,) = wire.engine.requests
    assert told.adapter is not None
    assert told.adapter.name == "team/ops"
    assert told.stop.max_new_tokens == 9
    assert told.stop.ignore_eos
    assert len(told.prompt_token_ids) == 1
    assert told.grammar is not None
    assert told.sampling.seed == 2**63 - 1
    assert (told.sampling.temperature, told.sampling.top_k, told.sampling.top_p) == (0.5, 3, 0.5)
    assert (told.sampling.typical_p, told.sampling.repetition_penalty) == (0.5, 1.5)


async def test_generate_with_merged_adapters(wire: Wire) -> None:
    wire.will_say("ok")
    merged = LoraxMerge(
        ids=["alice", "team/ops"],
        weights=[0.5, 2],
        merge_strategy="dare_ties",
        density=0.25,
        majority_sign_method="frequency",
    )
    await call(wire, lambda client: client.generate("hi", merged_adapters=merged))
    (told,) = wire.engine.requests
    look = wire.service.resolver.folders.resolve
    assert told.adapter == MergedAdapters(
        parts=tuple([await look(each) for each in merged.ids]),
        weights=(0.5, 2),
        strategy=MergeStrategy.DARE_TIES,
        density=0.25,
        majority_sign_method=MajoritySignMethod.FREQUENCY,
    )


async def test_stream(wire: Wire) -> None:
    wire.will_say("Hello")
    events = await call(wire, lambda client: list(client.generate_stream("hi")))
    assert "".join(e.token.text for e in events if not e.token.special) == "Hello"
    assert events[-1].generated_text == "Hello"
    assert events[-1].details.generated_tokens == 6


async def test_async_client(wire: Wire) -> None:
    wire.will_say("Hello")
    client = AsyncClient(wire.url)
    assert (await client.generate("hi")).generated_text == "Hello"
    events = [event async for event in client.generate_stream("hi")]
    assert events[-1].generated_text == "Hello"


ERRORS = [
    pytest.param({"adapter_id": "nobody"}, None, GenerationError, id="unknown adapter"),
    pytest.param({"max_new_tokens": 10_000}, None, ValidationError, id="too long"),
    pytest.param({"adapter_source": "hub", "adapter_id": "a/b"}, None, GenerationError, id="hub"),
    pytest.param(
        {"merged_adapters": LoraxMerge(ids=["alice", "nobody"], weights=[1, 1], density=0)},
        None,
        GenerationError,
        id="unknown part",
    ),
    pytest.param(
        {
            "merged_adapters": LoraxMerge(
                ids=["alice"], weights=[1], merge_strategy="ties", density=0
            )
        },
        None,
        ValidationError,
        id="prunes everything",
    ),
    pytest.param({"watermark": True}, None, ValidationError, id="unserved"),
    pytest.param({}, ServeError(ErrorCode.QUEUE_FULL, "Full."), OverloadedError, id="overload"),
    pytest.param(
        {}, ServeError(ErrorCode.ADAPTER_CORRUPT, "Bad file."), GenerationError, id="corrupt"
    ),
    pytest.param({}, EngineLost(), IncompleteGenerationError, id="engine lost"),
]


@pytest.mark.parametrize(("options", "failure", "raised"), ERRORS)
async def test_errors(
    wire: Wire, options: dict[str, Any], failure: Exception | None, raised: type[Exception]
) -> None:
    wire.engine.script = [failure] if failure else []
    with pytest.raises(raised):
        await call(wire, lambda client: client.generate("hi", **options))
    with pytest.raises(raised):
        await call(wire, lambda client: list(client.generate_stream("hi", **options)))


async def test_a_stream_that_breaks_raises_after_what_came(wire: Wire) -> None:
    wire.engine.script = [Tokens(wire.spell("He")), EngineLost()]
    seen: list[str] = []

    def read(client: Client) -> None:
        seen.extend(event.token.text for event in client.generate_stream("hi"))

    with pytest.raises(IncompleteGenerationError):
        await call(wire, read)


async def test_the_limit_of_open_requests(wire_files: Path) -> None:
    async with running(wire_files, Limits(max_concurrent_requests=1)) as wire:
        go = asyncio.Event()
        wire.engine.script = [Tokens(wire.spell("ok")), go, Tokens([wire.eos], FinishReason.EOS)]
        async with wire.client.post("/generate_stream", json={"inputs": "hi"}) as holder:
            with pytest.raises(OverloadedError):
                await call(wire, lambda client: client.generate("hi"))
            with pytest.raises(OverloadedError):
                await call(wire, lambda client: list(client.generate_stream("hi")))
            go.set()
            await holder.read()
        assert (await call(wire, lambda client: client.generate("hi"))).generated_text == "ok"


async def test_while_the_model_loads(wire: Wire) -> None:
    wire.engine.is_ready = False
    with pytest.raises(UnknownError, match="503: The engine is not ready"):
        await call(wire, lambda client: client.generate("hi"))


def half_a_body(request: PreparedRequest) -> PreparedRequest:
    assert isinstance(request.body, bytes)
    request.prepare_body(request.body[:-1], None)
    return request


@pytest.mark.parametrize(
    ("path", "options", "raised", "words"),
    [
        ("", {"damage": True}, BadRequestError, "not valid JSON"),
        ("/nothing", {}, NotFoundError, "nothing at this address"),
        ("/info", {}, UnknownError, "405: This address does not answer that method"),
        ("", {"headers": {"Content-Type": "text/plain"}}, UnknownError, "415: The Content-Type"),
        ("", {"prompt": "a" * 2**13}, UnknownError, "413: The body is too large"),
    ],
)
async def test_what_http_refuses(
    wire_files: Path, path: str, options: dict[str, Any], raised: type[Exception], words: str
) -> None:
    """LoRAX's plain text would come out as a 500 here, or as a JSON error of the client's own."""
    async with running(wire_files, Limits(max_body_bytes=2**12)) as wire:
        with Session() as session:
            if options.get("damage"):
                session.auth = half_a_body
            client = Client(wire.url + path, headers=options.get("headers"), session=session)
            prompt = options.get("prompt", "hi")
            with pytest.raises(raised, match=words):
                await asyncio.to_thread(client.generate, prompt)
            with pytest.raises(raised, match=words):
                await asyncio.to_thread(lambda: list(client.generate_stream(prompt)))
