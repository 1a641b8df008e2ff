"""A request's tokens never depend on its company: any mix on the real engine equals solo runs."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_engine import LocalEngine, collect, greedy
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
        "logit_bias": st.just(((5, 20.0), (6, -100.0))),
    },
)
REQUEST = st.fixed_dictionaries(
    {
        "arrival": st.integers(0, 12),
        "prompt": st.lists(st.integers(3, 6), min_size=1, max_size=40),
        "num_tokens": st.integers(1, 24),
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


@settings(
    derandomize=True,
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    mix=st.lists(REQUEST, min_size=2, max_size=10),
    num_blocks=st.integers(16, 40),
    max_batch_tokens=st.integers(8, 64),
    prefix_cache=st.booleans(),
)
def test_any_mix_equals_solo_runs(  # type: ignore[no-untyped-def]
    files: Path, mix, num_blocks: int, max_batch_tokens: int, prefix_cache: bool
) -> None:
    def request(index: int, name: str):  # type: ignore[no-untyped-def]
        each = mix[index]
        return greedy(
            name,
            each["prompt"],
            num_tokens=each["num_tokens"],
            adapter=None if each["adapter"] is None else files / each["adapter"],
            **each["sampling"],
        )

    with LocalEngine(files / "model", prefix_cache=False) as engine:
        solo = {str(i): engine.generate(request(i, str(i)))[str(i)] for i in range(len(mix))}
        block_bytes = 4 * 2**20 // engine.parts.info.num_blocks
        block_size = engine.parts.info.block_size
    with LocalEngine(
        files / "model",
        prefix_cache=prefix_cache,
        block_size=4,
        kv_cache_bytes=num_blocks * block_bytes * 4 // block_size,
        max_num_sequences=8,
        max_batch_tokens=max_batch_tokens,
        adapter_pool_bytes=300_000,
    ) as engine:
        for now in range(41):
            for index, each in enumerate(mix):
                if each["arrival"] == now:
                    engine.submit(request(index, str(index)))
                if each["abort_at"] == now and now > each["arrival"]:
                    engine.abort(str(index))
            engine.step()
        engine.run_until_idle()
        assert engine.parts.scheduler.num_running == 0
        results = collect(engine.take_events())
    for index, each in enumerate(mix):
        expected = solo[str(index)]
        got = results.get(str(index))
        aborted = each["abort_at"] is not None and each["abort_at"] > each["arrival"]
        if got is None or not got.ends:
            assert aborted, f"request {index} never ended"
            if got is not None:
                assert got.token_ids == expected.token_ids[: len(got.token_ids)]
            continue
        assert len(got.ends) == 1
        assert got.token_ids == expected.token_ids
        for one, other in zip(got.logprobs, expected.logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
