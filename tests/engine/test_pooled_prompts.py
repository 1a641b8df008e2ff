"""Pooled prompts: any traffic on the fake model, and the vectors of transformers and PEFT."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_harness import (
    FakeAdapters,
    Harness,
    expected_tokens,
    pooling_request,
    request,
)
from fake_runner import hidden_state
from local_engine import LocalEngine, greedy
from local_engine import pooling_request as pooling
from lorax_serve.engine.prompt_sums import read_sums, sum_prompts
from lorax_serve.ipc.messages import Pool, PromptPooled, RequestFailed
from lorax_serve.ipc.types import ErrorCode, Pooling
from oracles import prompts
from peft_adapters import build_adapter
from tiny_models import VARIANTS, build_tiny_model

BOTH = list(Pooling)


def expected_vector(prompt: list[int], how: Pooling, adapter: str | None = None) -> np.ndarray:
    """What the fake model's states make when the request is alone."""
    digest = "" if adapter is None else f"digest of {adapter}"
    ends = range(1 if how is Pooling.MEAN else len(prompt), len(prompt) + 1)
    mean = np.mean([hidden_state(tuple(prompt[:end]), digest) for end in ends], axis=0)
    return mean / np.linalg.norm(mean)


def vector_of(event: PromptPooled) -> np.ndarray:
    return np.frombuffer(event.vector, "<f4")


REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "arrival": st.integers(0, 30),
            "prompt": st.lists(st.integers(0, 3), min_size=1, max_size=24),
            "num_new": st.integers(1, 20),
            "pooling": st.sampled_from([None, *BOTH, *BOTH]),
            "adapter": st.sampled_from([None, "a", "b", "c", "bad"]),
            "abort_at": st.none() | st.integers(0, 60),
        }
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("overlaps", [False, True], ids=["at once", "overlapped"])
@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    requests=REQUESTS,
    num_blocks=st.integers(11, 40),
    max_num_sequences=st.integers(1, 6),
    max_batch_tokens=st.integers(6, 32),
    prefix_cache=st.booleans(),
    capacity=st.integers(1, 3),
)
def test_any_traffic_gives_each_request_its_solo_answer_and_one_end(  # type: ignore[no-untyped-def]
    overlaps, requests, num_blocks, max_num_sequences, max_batch_tokens, prefix_cache, capacity
) -> None:
    adapters = FakeAdapters(capacity=capacity, delay=3, broken=frozenset({"bad"}))
    harness = Harness(
        overlaps=overlaps,
        num_blocks=num_blocks,
        max_num_sequences=max_num_sequences,
        max_batch_tokens=max_batch_tokens,
        prefix_cache=prefix_cache,
        adapters=adapters,
    )
    for now in range(61):
        for name, each in enumerate(requests):
            if each["arrival"] == now:
                harness.generate(_message(str(name), each))
            if each["abort_at"] == now and now > each["arrival"]:
                harness.abort(str(name))
        harness.step()
        harness.scheduler.check_integrity()
    harness.run_until_idle()
    sampled = [item.sequence for step in harness.runner.steps for item in step.sampling]
    assert all(sequence.pooled is None for sequence in sampled)
    assert harness.allocator.num_used == 0
    assert all(slot.num_pins == 0 for slot in adapters.resident.values())
    for name, each in enumerate(requests):
        may_be_cut = each["abort_at"] is not None and each["abort_at"] > each["arrival"]
        _check(harness, str(name), each, may_be_cut=may_be_cut)


def _message(name: str, each: dict[str, Any]) -> Any:
    if each["pooling"] is not None:
        return pooling_request(
            name, each["prompt"], pooling=each["pooling"], adapter=each["adapter"]
        )
    return request(name, each["prompt"], max_new_tokens=each["num_new"], adapter=each["adapter"])


def _check(harness: Harness, name: str, each: dict[str, Any], *, may_be_cut: bool) -> None:
    ends = harness.terminal_events(name)
    if may_be_cut and not ends:
        return
    (end,) = ends
    if each["adapter"] == "bad":
        assert isinstance(end, RequestFailed)
    elif each["pooling"] is None:
        assert harness.tokens(name) == expected_tokens(
            each["prompt"], each["num_new"], each["adapter"]
        )
    else:
        assert isinstance(end, PromptPooled)
        expected = expected_vector(each["prompt"], each["pooling"], each["adapter"])
        assert vector_of(end) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("overlaps", [False, True], ids=["at once", "overlapped"])
@pytest.mark.parametrize("how", BOTH)
def test_one_that_is_preempted_halfway_begins_anew(how: Pooling, overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, num_blocks=8, max_batch_tokens=3, prefix_cache=False)
    prompt = list(range(24))
    harness.generate(request("old", [1] * 8, max_new_tokens=14))
    while not harness.tokens("old"):
        harness.step()
    harness.generate(pooling_request("young", prompt, pooling=how))
    harness.run_until_idle()
    starts = [
        item.start
        for step in harness.runner.steps
        for item in step.scheduled
        if item.sequence.pooled is not None
    ]
    assert starts.count(0) >= 2
    assert starts.index(0, 1) > 1, "some of it was computed before"
    (end,) = harness.terminal_events("young")
    assert vector_of(end) == pytest.approx(expected_vector(prompt, how), abs=1e-6)


@pytest.mark.parametrize("how", BOTH)
def test_one_whose_vector_is_on_its_way_holds_nobody_up(how: Pooling) -> None:
    """A generation beside it is in every step, and a newcomer is admitted meanwhile."""
    harness = Harness(overlaps=True)
    harness.generate(request("beside", [1, 2], max_new_tokens=12))
    harness.step()
    harness.generate(pooling_request("pooled", [3, 4, 5], pooling=how))
    harness.step()
    harness.generate(request("newcomer", [6], max_new_tokens=1))
    harness.step()
    names = [{item.sequence.id.request_id for item in s.scheduled} for s in harness.runner.steps]
    assert names == [{"beside"}, {"beside", "pooled"}, {"beside", "newcomer"}]


@pytest.mark.parametrize("overlaps", [False, True], ids=["at once", "overlapped"])
@pytest.mark.parametrize("how", BOTH)
def test_a_prompt_may_fill_the_context_and_leaves_nothing_behind(
    how: Pooling, overlaps: bool
) -> None:
    harness = Harness(num_blocks=8, overlaps=overlaps)
    prompt = list(range(harness.info.max_model_len))
    harness.generate(pooling_request("full", prompt, pooling=how))
    harness.generate(pooling_request("over", [*prompt, 1], pooling=how))
    harness.generate(pooling_request("empty", [], pooling=how))
    harness.generate(pooling_request("foreign", [harness.info.vocab_size], pooling=how))
    harness.run_until_idle()
    (full,) = harness.terminal_events("full")
    assert vector_of(full) == pytest.approx(expected_vector(prompt, how), abs=1e-6)
    codes = [harness.terminal_events(name)[0].code for name in ("over", "empty", "foreign")]
    assert codes == [
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
    ]
    assert harness.allocator.num_used == 0


@pytest.mark.parametrize("how", BOTH)
def test_states_that_are_no_numbers_fail_and_are_offered_to_nobody(how: Pooling) -> None:
    harness = Harness()
    harness.runner.broken = frozenset({"ill"})
    prompt = list(range(12))
    harness.generate(pooling_request("ill", prompt, pooling=how))
    harness.run_until_idle()
    (failure,) = harness.terminal_events("ill")
    assert failure.code is ErrorCode.GENERATION_ERROR
    harness.generate(pooling_request("well", prompt, pooling=Pooling.LAST))
    harness.run_until_idle()
    (end,) = harness.terminal_events("well")
    assert end.prompt.num_cached_tokens == 0


def test_the_last_tokens_vector_takes_the_prefix_from_the_cache() -> None:
    """And leaves its own there; a mean needs every row, so it takes none."""
    harness = Harness()
    prompt = list(range(13))
    for name, how in (("first", Pooling.LAST), ("mean", Pooling.MEAN), ("again", Pooling.LAST)):
        harness.generate(pooling_request(name, prompt, pooling=how))
        harness.run_until_idle()
    cached = [
        harness.terminal_events(name)[0].prompt.num_cached_tokens
        for name in ("first", "mean", "again")
    ]
    assert cached == [0, 0, 12]


def _oracle(model: torch.nn.Module, prompt: list[int], how: Pooling) -> np.ndarray:
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
    states = output.hidden_states[-1][0].float()
    pooled = states.mean(0) if how is Pooling.MEAN else states[-1]
    return torch.nn.functional.normalize(pooled, dim=0).numpy()


def _vector(answer: Any) -> np.ndarray:
    assert len(answer.ends) == 1
    return np.frombuffer(answer.vector, "<f4")


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_equal_transformers_in_chunks_and_beside_others(
    variant: str, tmp_path: Path
) -> None:
    oracle = build_tiny_model(variant, tmp_path)
    texts = prompts(6, seed=31, high=60)
    requests = [
        pooling(f"{how.value}{i}", text, pooling=how)
        for i, text in enumerate(texts)
        for how in BOTH
    ]
    with LocalEngine(tmp_path, max_batch_tokens=24) as engine:
        assert engine.parts.info.hidden_size == oracle.config.hidden_size
        together = engine.generate(greedy("beside", texts[0]), *requests)
        again = engine.generate(*requests)  # where it may, it takes prompts from the cache
    assert len(together["beside"].token_ids) == 16
    for i, text in enumerate(texts):
        for how in BOTH:
            expected = _oracle(oracle, text, how)
            for answers in (together, again):
                got = _vector(answers[f"{how.value}{i}"])
                assert np.linalg.norm(got) == pytest.approx(1, abs=1e-6)
                assert got == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2", "qwen3"])
def test_vectors_of_adapters_equal_peft(variant: str, tmp_path: Path) -> None:
    base = build_tiny_model(variant, tmp_path / "model")
    oracles: dict[str, torch.nn.Module] = {"": base}
    for name, rank in (("a", 4), ("b", 16)):
        fresh = build_tiny_model(variant, tmp_path / f"base-{name}")
        oracles[name] = build_adapter(tmp_path / name, fresh, rank=rank)
    texts = prompts(2, seed=32, low=20)
    asked: dict[str, Pool] = {}
    for number, text in enumerate(texts):
        for how in BOTH:
            for name in oracles:
                adapter = tmp_path / name if name else None
                key = f"{name}-{number}-{how.value}"
                asked[key] = pooling(key, text, pooling=how, adapter=adapter)
    with LocalEngine(tmp_path / "model", max_batch_tokens=32) as engine:
        together = engine.generate(*asked.values())
    for key, answer in together.items():
        name, number, how = key.split("-")
        expected = _oracle(oracles[name], texts[int(number)], Pooling(how))
        assert _vector(answer) == pytest.approx(expected, abs=1e-4)
    far = _vector(together["a-0-last"]) - _vector(together["-0-last"])
    assert np.abs(far).max() > 1e-2, "the adapter changes nothing"


def test_an_adapter_trained_without_the_head_equals_peft(tmp_path: Path) -> None:
    """On AutoModel, as is usual for embeddings: its names lack `model.`."""
    build_tiny_model("qwen3", tmp_path / "model")
    fresh = build_tiny_model("qwen3", tmp_path / "base")
    oracle = build_adapter(
        tmp_path / "a", fresh.model, targets=["q_proj", "down_proj"], task_type="FEATURE_EXTRACTION"
    )
    texts = prompts(2, seed=34, low=20)
    asked = [
        pooling(f"{how.value}{i}", text, pooling=how, adapter=tmp_path / "a")
        for i, text in enumerate(texts)
        for how in BOTH
    ]
    with LocalEngine(tmp_path / "model", max_batch_tokens=32) as engine:
        got = engine.generate(*asked)
    for i, text in enumerate(texts):
        for how in BOTH:
            expected = _oracle(oracle, text, how)
            assert _vector(got[f"{how.value}{i}"]) == pytest.approx(expected, abs=1e-4)


def test_company_and_chunks_do_not_show(tmp_path: Path) -> None:
    """On a CPU not in the last bit but one: sums over chunks are as good as exact."""
    build_tiny_model("llama", tmp_path)
    texts = prompts(8, seed=33, low=30)
    asked = [pooling(str(i), text, pooling=BOTH[i % 2]) for i, text in enumerate(texts)]
    with LocalEngine(tmp_path, max_batch_tokens=512, prefix_cache=False) as engine:
        alone = [_vector(engine.generate(each)[each.request_id]) for each in asked]
    with LocalEngine(tmp_path, max_batch_tokens=17, max_num_sequences=5) as engine:
        together = engine.generate(*asked, *(greedy(f"g{i}", texts[i]) for i in range(4)))
    for i, vector in enumerate(alone):
        assert _vector(together[str(i)]) == pytest.approx(vector, abs=1e-5)


@pytest.mark.parametrize("num_padded", [0, 3])
def test_rows_are_found_behind_the_padding(num_padded: int) -> None:
    """One row of a decode, padding as in a graph's shape, then a prompt's rows."""
    hidden = torch.arange(24.0).view(8, 3)
    items = [SimpleNamespace(num_tokens=n, num_pooled=p) for n, p in ((1, 1), (2, 1), (2, 2))]
    step: Any = SimpleNamespace(scheduled=items, num_decodes=1)
    sums = sum_prompts(step, hidden, num_padded=num_padded)
    first, second, third = read_sums(sums)
    at = 1 + num_padded
    assert first == pytest.approx(hidden[0].numpy())
    assert second == pytest.approx(hidden[at + 1].numpy())
    assert third == pytest.approx((hidden[at + 2] + hidden[at + 3]).numpy())
