from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from fake_engine import ENGINE_INFO, FakeEngine
from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import (
    ErrorCode,
    GrammarKind,
    MajoritySignMethod,
    MergedAdapters,
    MergeStrategy,
    SamplingParams,
)
from lorax_serve.server.admission import Accepted, Admission
from lorax_serve.server.errors import ServeError
from lorax_serve.server.request import GenerationRequest, JsonObject, Merge
from lorax_serve.server.service import Limits, Service
from lorax_serve.server.tenants import ANONYMOUS
from wire import MODEL_ID, make_service

MAX_LEN = ENGINE_INFO.max_model_len


@pytest_asyncio.fixture
async def service(wire_files: Path) -> AsyncIterator[Service]:
    made = make_service(wire_files, FakeEngine(), Limits(max_untruncated_tokens=1000))
    yield made
    made.tokenizer.close()


async def accept(service: Service, prompt: str | tuple[int, ...], **fields: object) -> Accepted:
    asked = GenerationRequest(prompt=prompt, sampling=SamplingParams())
    async with Admission(service).accept(replace(asked, **fields)) as accepted:  # type: ignore[arg-type]
        return accepted


async def refusal(service: Service, prompt: str | tuple[int, ...], **fields: object) -> ErrorCode:
    with pytest.raises(ServeError) as caught:
        await accept(service, prompt, **fields)
    return caught.value.code


async def test_a_request_becomes_an_engine_message(service: Service) -> None:
    sampling = SamplingParams(temperature=0.5, seed=7)
    accepted = await accept(
        service,
        "the shells",
        sampling=sampling,
        adapter_id="team/ops",
        max_new_tokens=9,
        stop_strings=("x",),
        stop_token_ids=(5,),
        ignore_eos=True,
        constraint=JsonObject(),
        cache_salt="s",
    )
    message = accepted.message
    assert msgspec.convert(msgspec.to_builtins(message), type(message)) == message
    assert message.prompt_token_ids == service.tokenizer.encode(
        "the shells", add_special_tokens=True
    )
    assert message.sampling == sampling
    assert (message.stop.max_new_tokens, message.stop.stop_token_ids) == (9, (5,))
    assert message.stop.ignore_eos
    assert message.adapter is not None
    assert message.adapter == await service.resolver.folders.resolve("team/ops")
    assert message.grammar is not None
    assert message.grammar.kind is GrammarKind.LLGUIDANCE
    assert (message.tenant, message.cache_salt) == ("", "/s")
    assert accepted.stop_strings == ("x",)
    assert accepted.num_prompt_characters == 10


async def test_a_token_that_opens_nothing_makes_no_tenant(service: Service) -> None:
    """Or whoever makes one up for each request would have a fresh share with each."""
    admission = Admission(service)

    async def message(token: str | None) -> Generate:
        asked = GenerationRequest(prompt="x", sampling=SamplingParams(), adapter_token=token)
        async with admission.accept(asked) as accepted:
            return accepted.message

    first, again, other, nobody = [await message(t) for t in ("a", "a", "b", None)]
    assert {m.tenant for m in (first, again, other, nobody)} == {ANONYMOUS}
    assert first.cache_salt == again.cache_salt
    assert len({m.cache_salt for m in (first, other, nobody)}) == 3, "nobody's prompts are shown"


async def test_request_ids_are_unique(service: Service) -> None:
    ids = {(await accept(service, "x")).message.request_id for _ in range(10)}
    assert len(ids) == 10


@pytest.mark.parametrize("adapter_id", ["", MODEL_ID])
async def test_the_base_model(service: Service, adapter_id: str) -> None:
    assert (await accept(service, "x", adapter_id=adapter_id)).message.adapter is None


@pytest.mark.parametrize("adapter_id", ["", MODEL_ID, "/models/base"])
@pytest.mark.parametrize("source", ["hub", "pbase", "anything"])
async def test_the_base_model_has_any_name_and_no_source(
    service: Service, adapter_id: str, source: str
) -> None:
    served = replace(service, model_aliases=frozenset(("/models/base",)))
    accepted = await accept(served, "x", adapter_id=adapter_id, adapter_source=source)
    assert accepted.message.adapter is None


@pytest.mark.parametrize("source", ["local", "LOCAL"])
async def test_an_adapter_of_this_machine(service: Service, source: str) -> None:
    accepted = await accept(service, "x", adapter_id="alice", adapter_source=source)
    assert accepted.message.adapter is not None


@pytest.mark.parametrize("source", ["hub", "", "anything"])
async def test_other_sources_are_not_served(service: Service, source: str) -> None:
    code = await refusal(service, "x", adapter_id="alice", adapter_source=source)
    assert code is ErrorCode.UNSUPPORTED_PARAMETER


async def test_an_unknown_adapter(service: Service) -> None:
    assert await refusal(service, "x", adapter_id="nobody") is ErrorCode.MODEL_NOT_FOUND


def merge_of(*adapter_ids: str) -> Merge:
    weights = tuple(range(1, len(adapter_ids) + 1))
    return Merge(adapter_ids, weights, MergeStrategy.TIES, 0.5, MajoritySignMethod.FREQUENCY)


async def test_a_merge_of_adapters(service: Service) -> None:
    accepted = await accept(service, "x", merge=merge_of("alice", "team/ops", "alice"))
    adapter, look = accepted.message.adapter, service.resolver.folders.resolve
    assert adapter == MergedAdapters(
        parts=tuple([await look(each) for each in ("alice", "team/ops", "alice")]),
        weights=(1, 2, 3),
        strategy=MergeStrategy.TIES,
        density=0.5,
        majority_sign_method=MajoritySignMethod.FREQUENCY,
    )
    assert adapter.name == "alice,team/ops,alice"
    message = accepted.message
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Generate) == message


@pytest.mark.parametrize("base", [MODEL_ID, "/models/base"])
async def test_the_base_model_cannot_be_merged(service: Service, base: str) -> None:
    served = replace(service, model_aliases=frozenset(("/models/base",)))
    assert await refusal(served, "x", merge=merge_of("alice", base)) is ErrorCode.INVALID_REQUEST


async def test_a_merge_with_the_base_model_fetches_nothing(service: Service) -> None:
    code = await refusal(service, "x", merge=merge_of("nobody", MODEL_ID))
    assert code is ErrorCode.INVALID_REQUEST  # before anybody is looked for


async def test_every_part_of_a_merge_must_exist(service: Service) -> None:
    with pytest.raises(ServeError, match="'nobody'") as caught:
        await accept(service, "x", merge=merge_of("alice", "nobody"))
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


async def test_the_source_is_that_of_every_part(service: Service) -> None:
    code = await refusal(service, "x", merge=merge_of("alice"), adapter_source="hub")
    assert code is ErrorCode.UNSUPPORTED_PARAMETER


@pytest.mark.parametrize("num_prompt", [1, 100, MAX_LEN - 1])
async def test_without_a_limit_the_answer_takes_what_is_left(
    service: Service, num_prompt: int
) -> None:
    accepted = await accept(service, (5,) * num_prompt)
    assert accepted.message.stop.max_new_tokens == MAX_LEN - num_prompt


async def test_the_answer_must_fit(service: Service) -> None:
    accepted = await accept(service, (5,) * 100, max_new_tokens=MAX_LEN - 100)
    assert accepted.message.stop.max_new_tokens == MAX_LEN - 100
    code = await refusal(service, (5,) * 100, max_new_tokens=MAX_LEN - 99)
    assert code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


@pytest.mark.parametrize("prompt", [(5,) * MAX_LEN, "7" * MAX_LEN, "7" * 4_000_000])
async def test_the_prompt_must_leave_room(service: Service, prompt: str | tuple[int, ...]) -> None:
    assert await refusal(service, prompt) is ErrorCode.CONTEXT_LENGTH_EXCEEDED


async def test_truncation_keeps_the_last_tokens_and_comes_before_the_length_check(
    service: Service,
) -> None:
    text = "7" * (MAX_LEN * 2)
    accepted = await accept(service, text + "the end", truncate=5)
    whole = service.tokenizer.encode(text + "the end", add_special_tokens=True)
    assert accepted.message.prompt_token_ids == whole[-5:]
    assert accepted.message.stop.max_new_tokens == MAX_LEN - 5


async def test_truncation_of_a_shorter_prompt_changes_nothing(service: Service) -> None:
    accepted = await accept(service, (5, 6), truncate=100)
    assert accepted.message.prompt_token_ids == [5, 6]


async def test_truncation_has_limits(service: Service) -> None:
    assert await refusal(service, "x", truncate=MAX_LEN) is ErrorCode.INVALID_REQUEST
    code = await refusal(service, "7" * 1001, truncate=5)
    assert code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


@pytest.mark.parametrize("prompt", ["", ()])
async def test_an_empty_prompt(service: Service, prompt: str | tuple[int, ...]) -> None:
    assert await refusal(service, prompt) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "fields",
    [
        {"stop_strings": ("x",) * 17},
        {"stop_strings": ("",)},
        {"stop_strings": ("ö" * 129,)},
        {"stop_token_ids": (1,) * 65},
        {"stop_token_ids": (ENGINE_INFO.vocab_size,)},
        {"sampling": SamplingParams(logit_bias=((ENGINE_INFO.vocab_size, 1.0),))},
    ],
)
async def test_limits_and_vocabulary(service: Service, fields: dict[str, object]) -> None:
    assert await refusal(service, "x", **fields) is ErrorCode.INVALID_REQUEST


async def test_limits_are_inclusive(service: Service) -> None:
    last = ENGINE_INFO.vocab_size - 1
    await accept(
        service,
        (last,),
        stop_strings=("ö" * 128,) * 16,
        stop_token_ids=(last,) * 64,
        sampling=SamplingParams(logit_bias=((last, 1.0),)),
    )


async def test_a_prompt_id_outside_the_vocabulary(service: Service) -> None:
    assert await refusal(service, (1, ENGINE_INFO.vocab_size)) is ErrorCode.INVALID_REQUEST


async def test_before_the_engine_is_ready(wire_files: Path) -> None:
    service = make_service(wire_files, FakeEngine(is_ready=False))
    assert await refusal(service, "x") is ErrorCode.NOT_READY
    service.tokenizer.close()


async def test_places_are_limited_and_given_back(wire_files: Path) -> None:
    service = make_service(wire_files, FakeEngine(), Limits(max_concurrent_requests=2))
    admission = Admission(service)
    asked = GenerationRequest(prompt="x", sampling=SamplingParams())
    async with admission.accept(asked):
        with pytest.raises(KeyError):
            async with admission.accept(asked):
                with pytest.raises(ServeError) as caught:
                    async with admission.accept(asked):
                        pass
                raise KeyError
        async with admission.accept(asked):
            pass
    assert caught.value.code is ErrorCode.QUEUE_FULL
    service.tokenizer.close()
