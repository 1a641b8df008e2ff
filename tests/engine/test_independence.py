"""A request's tokens never depend on its company: any mix on the real engine equals solo runs."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from local_engine import Generated, LocalEngine, collect, greedy
from lorax_serve.engine.adapters.slab_tier import SlabTier
from lorax_serve.engine.scheduler import Scheduler
from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import FinishReason, StopConditions
from peft_adapters import build_adapter
from tiny_models import build_tiny_model

SAMPLING = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]), "seed": st.integers(0, 2**63 - 1)},
    optional={
        "top_k": st.integers(1, 50),
        "top_p": st.floats(0.1, 1.0),
        "min_p": st.floats(0.0, 0.5),
        "typical_p": st.floats(0.1, 1.0),
        "repetition_penalty": st.floats(0.5, 2.0),
        "frequency_penalty": st.floats(-2, 2),
        "presence_penalty": st.floats(-2, 2),
        "num_logprobs": st.integers(0, 5),
        # The second makes the end-of-sequence id, 2, a likely one.
        "logit_bias": st.sampled_from([((5, 20.0), (6, -100.0)), ((2, 5.0),)]),
    },
)
# Prompts begin alike, so that some find others' blocks in the prefix cache.
TEXTS = tuple([3, 4, 5, *(Random(seed).choices(range(3, 300), k=37))] for seed in range(3))
PROMPT = st.builds(lambda text, length: text[:length], st.sampled_from(TEXTS), st.integers(1, 40))
REQUEST = st.fixed_dictionaries(
    {
        "arrival": st.integers(0, 12),
        "prompt": PROMPT,
        "num_tokens": st.integers(1, 24),
        "min_tokens": st.sampled_from([0, 0, 3, 20]),
        "ignore_eos": st.booleans(),
        "stop_token_ids": st.sampled_from([(), (), (7,), tuple(range(8, 80))]),
        "adapter": st.sampled_from([None, "a", "b", "c"]),
        "sampling": SAMPLING,
        "abort_at": st.none() | st.integers(2, 40),
    }
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("independence")
    model = build_tiny_model("qwen3", root / "model")
    for rank, name in ((2, "a"), (8, "b"), (16, "c")):
        fresh = build_tiny_model("qwen3", root / f"base-{name}")
        build_adapter(root / name, fresh, rank=rank)
    assert model is not None
    return root


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of the events happened that the test is about."""
    counts: Counter[str] = Counter()

    def count(name: str, owner: type, method: str) -> None:
        original: Callable[..., Any] = getattr(owner, method)

        def counted(*args: Any) -> Any:
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(owner, method, counted)

    count("preempted", Scheduler, "_preempt")
    count("evicted", SlabTier, "drop")
    return counts


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The model is so small that threads only wait for one another."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.usefixtures("one_thread")
def test_any_mix_equals_solo_runs(files: Path, happened: Counter[str]) -> None:
    @settings(derandomize=True, max_examples=40, deadline=None)
    @given(
        mix=st.lists(REQUEST, min_size=4, max_size=10),
        num_blocks=st.integers(16, 28),
        max_batch_tokens=st.integers(8, 64),
        prefix_cache=st.booleans(),
        adapter_pool_bytes=st.integers(145_000, 300_000),
    )
    def check(mix: list[dict[str, Any]], num_blocks: int, **options: Any) -> None:
        requests = [_request(files, str(index), each) for index, each in enumerate(mix)]
        with LocalEngine(files / "model", prefix_cache=False) as engine:
            solo = [engine.generate(each)[each.request_id] for each in requests]
            bytes_per_token = (
                4 * 2**20 // (engine.parts.info.num_blocks * engine.parts.info.block_size)
            )
        with LocalEngine(
            files / "model",
            block_size=4,
            kv_cache_bytes=num_blocks * bytes_per_token * 4,
            max_num_sequences=8,
            **options,
        ) as engine:
            results = _run(engine, mix, requests)
        for index, each in enumerate(mix):
            got = results.get(str(index), Generated())
            if got.ends:
                happened[got.ends[0].finish_reason] += 1
            _compare(got, solo[index], may_be_aborted=_aborted(each))

    check()
    for event in ("preempted", "evicted", *FinishReason):
        assert happened[event], happened


def _request(files: Path, name: str, each: dict[str, Any]) -> Generate:
    adapter = None if each["adapter"] is None else files / each["adapter"]
    stop = StopConditions(
        max_new_tokens=each["num_tokens"],
        min_new_tokens=each["min_tokens"],
        stop_token_ids=each["stop_token_ids"],
        ignore_eos=each["ignore_eos"],
    )
    request = greedy(name, each["prompt"], adapter=adapter, **each["sampling"])
    return msgspec.structs.replace(request, stop=stop)


def _aborted(each: dict[str, Any]) -> bool:
    return each["abort_at"] is not None and each["abort_at"] > each["arrival"]


def _run(
    engine: LocalEngine, mix: list[dict[str, Any]], requests: list[Generate]
) -> dict[str, Generated]:
    """Everything the engine said, each request arriving and leaving in its time."""
    for now in range(41):
        for each, request in zip(mix, requests, strict=True):
            if each["arrival"] == now:
                engine.submit(request)
            if each["abort_at"] == now and _aborted(each):
                engine.abort(request.request_id)
        engine.step()
    engine.run_until_idle()
    assert engine.parts.scheduler.num_running == 0
    return collect(engine.take_events())


def _compare(got: Generated, expected: Generated, *, may_be_aborted: bool) -> None:
    if not got.ends:
        assert may_be_aborted, "a request never ended"
        assert got.token_ids == expected.token_ids[: len(got.token_ids)]
        return
    (end,), (expected_end,) = got.ends, expected.ends
    assert end.finish_reason == expected_end.finish_reason
    assert got.token_ids == expected.token_ids
    for one, other in zip(got.logprobs, expected.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
