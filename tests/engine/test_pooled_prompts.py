"""Prompts that are pooled, in any traffic on the fake model: the right vector, and one end."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from any_traffic import ENGINES, after_traffic, is_aborted, traffic
from engine_harness import Harness, expected_tokens, pooling_request, request
from fake_runner import hidden_state
from lorax_serve.ipc.messages import PromptPooled, RequestFailed
from lorax_serve.ipc.types import ErrorCode, Pooling

BOTH = list(Pooling)


def expected_vector(prompt: list[int], how: Pooling, adapter: str | None = None) -> np.ndarray:
    """What the fake model's states make when the request is alone."""
    digest = "" if adapter is None else f"digest of {adapter}"
    ends = range(1 if how is Pooling.MEAN else len(prompt), len(prompt) + 1)
    mean = np.mean([hidden_state(tuple(prompt[:end]), digest) for end in ends], axis=0)
    return mean / np.linalg.norm(mean)


def vector_of(event: PromptPooled) -> np.ndarray:
    return np.frombuffer(event.vector, "<f4")


@pytest.mark.parametrize("overlaps", [False, True], ids=["at once", "overlapped"])
@settings(derandomize=True, max_examples=200, deadline=None)
@given(requests=traffic(pooling=st.sampled_from([None, *BOTH, *BOTH])), engine=ENGINES)
def test_any_traffic_gives_each_request_its_solo_answer_and_one_end(
    overlaps: bool, requests: list[dict[str, Any]], engine: dict[str, Any]
) -> None:
    harness = after_traffic(requests, _message, overlaps=overlaps, **engine)
    sampled = [item.sequence for step in harness.runner.steps for item in step.sampling]
    assert all(sequence.pooled is None for sequence in sampled)
    for name, each in enumerate(requests):
        _check(harness, str(name), each, may_be_cut=is_aborted(each))


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
