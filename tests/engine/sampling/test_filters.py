"""Filters against transformers' warpers, one at a time and all together."""

import math
from collections.abc import Callable

import msgspec
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import TopKLogitsWarper

from lorax_serve.engine.sampling.filters import (
    filter_scores_,
    keep_min_p_,
    keep_top_k_,
    keep_top_p_,
    keep_typical_p_,
    scale_,
)
from lorax_serve.ipc.types import SamplingParams
from sampling_cases import (
    distinct_logits,
    drawn_params,
    fractions,
    nudged,
    tied_logits,
    transformers_scores,
)


def filtered(logits: Tensor, params: list[SamplingParams]) -> Tensor:
    scores = logits.clone()
    scale_(scores, scores.amax(-1), params)
    filter_scores_(scores, params)
    return scores


def kept(scores: Tensor) -> list[int]:
    """Ids of the tokens of one row [V] that are left."""
    ids: list[int] = (scores > -math.inf).nonzero().flatten().tolist()
    return ids


def kept_by(
    keep_: Callable[[Tensor, Tensor], None], logits: list[float], value: float
) -> list[int]:
    scores = torch.tensor([logits])
    scores -= scores.max()
    keep_(scores, torch.tensor([[value]], dtype=torch.float64))
    return kept(scores[0])


def agreed(logits: Tensor, params: SamplingParams) -> list[int]:
    """The tokens transformers keeps; gives a close call up."""
    answers = [kept(transformers_scores(logits, close)) for close in nudged(params)]
    assume(all(answer == answers[0] for answer in answers))
    return answers[0]


@given(st.one_of(distinct_logits(), tied_logits()), st.integers(1, 60))
@settings(derandomize=True)
def test_top_k_keeps_what_transformers_keeps_ties_included(logits: list[float], k: int) -> None:
    k = min(k, len(logits))
    row = torch.tensor([logits])
    ids = torch.zeros(1, 0, dtype=torch.int64)
    assert kept_by(keep_top_k_, logits, k) == kept(TopKLogitsWarper(k)(ids, row)[0])


@given(distinct_logits(), fractions())
@settings(derandomize=True)
def test_top_p_keeps_what_transformers_keeps(logits: list[float], p: float) -> None:
    expected = agreed(torch.tensor(logits), SamplingParams(top_p=p))
    assert kept_by(keep_top_p_, logits, p) == expected


@given(tied_logits(), fractions())
@settings(derandomize=True)
def test_top_p_keeps_as_many_ties_as_transformers_but_the_first(
    logits: list[float], p: float
) -> None:
    expected = agreed(torch.tensor(logits), SamplingParams(top_p=p))
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    assert kept_by(keep_top_p_, logits, p) == sorted(order[: len(expected)])


@given(st.one_of(distinct_logits(), tied_logits()), fractions())
@settings(derandomize=True)
def test_min_p_keeps_what_transformers_keeps(logits: list[float], p: float) -> None:
    expected = agreed(torch.tensor(logits), SamplingParams(min_p=p))
    assert kept_by(keep_min_p_, logits, p) == expected


@given(st.one_of(distinct_logits(), tied_logits()), fractions())
@settings(derandomize=True)
def test_typical_p_keeps_what_transformers_keeps(logits: list[float], p: float) -> None:
    expected = agreed(torch.tensor(logits), SamplingParams(typical_p=p))
    assert kept_by(keep_typical_p_, logits, p) == expected


@given(st.lists(st.tuples(distinct_logits(), drawn_params()), min_size=1, max_size=6))
@settings(derandomize=True, max_examples=100)
def test_all_filters_together_row_by_row(
    cases: list[tuple[list[float], SamplingParams]],
) -> None:
    width = max(len(logits) for logits, _ in cases)
    rows = torch.tensor([logits + [-math.inf] * (width - len(logits)) for logits, _ in cases])
    scores = filtered(rows, [params for _, params in cases])
    for row, ours, (_, params) in zip(rows, scores, cases, strict=True):
        expected = transformers_scores(row, params)
        assert kept(ours) == agreed(row, params)
        torch.testing.assert_close(
            ours.double().softmax(-1), expected.softmax(-1), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("vocab_size", [300, 5000])
def test_wide_rows(vocab_size: int) -> None:
    """Beyond the first width of the mass search, with a large k beside small ones."""
    logits = torch.randn(6, vocab_size, generator=torch.Generator().manual_seed(1))
    params = [
        SamplingParams(top_p=0.95),
        SamplingParams(top_k=280, top_p=0.7),
        SamplingParams(top_k=3),
        SamplingParams(typical_p=0.9),
        SamplingParams(),
        SamplingParams(top_k=10, min_p=0.3, typical_p=0.5, temperature=3.0),
    ]
    for row, ours, p in zip(logits, filtered(logits, params), params, strict=True):
        assert kept(ours) == kept(transformers_scores(row, p))


def test_a_row_that_sets_nothing_is_left_as_it_is() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    plain = SamplingParams(temperature=0.7)
    params = [plain, SamplingParams(top_k=2, top_p=0.4, min_p=0.5, typical_p=0.3), plain]
    ours = filtered(logits, params)
    expected = (logits - logits.amax(-1, keepdim=True)) / 0.7
    assert torch.equal(ours[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-8])
def test_a_tiny_temperature_leaves_the_maximum_alone(temperature: float) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.999, -3.4e38, -math.inf], [0.0, -1.0, -2.0, -3.0, 3.4e38]])
    scores = filtered(logits, [SamplingParams(temperature=temperature)] * 2)
    assert scores.softmax(-1).tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_a_huge_temperature_flattens() -> None:
    probs = filtered(torch.tensor([[5.0, -5.0]]), [SamplingParams(temperature=100)]).softmax(-1)
    assert probs[0, 0] / probs[0, 1] == pytest.approx(math.exp(0.1))


@pytest.mark.parametrize(
    "change",
    [{"top_p": 1e-300}, {"top_k": 1}, {"min_p": 1.0}],
    ids=lambda change: next(iter(change)),
)
def test_the_tightest_filter_leaves_the_most_likely_token(change: dict[str, float]) -> None:
    params = msgspec.structs.replace(SamplingParams(), **change)
    assert kept(filtered(torch.tensor([[0.0, 2.0, 1.0]]), [params])[0]) == [1]


def test_the_tightest_typical_p_leaves_the_most_typical_token() -> None:
    # Entropy 1.86 bits; informations 1, 2.25, 2.40, 4.32 and 4.32.
    logits = torch.tensor([[0.5, 0.21, 0.19, 0.05, 0.05]]).log()
    assert kept(filtered(logits, [SamplingParams(typical_p=1e-300)])[0]) == [1]


def test_thresholds_that_remove_nothing() -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(3))
    loosest = SamplingParams(top_k=2**31 - 1, top_p=1 - 2**-53, min_p=1e-300, typical_p=1 - 2**-53)
    assert kept(filtered(logits, [loosest])[0]) == list(range(40))


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("vocab_size", [33, 1000, 40000])  # the last is wide enough for threads
def test_scores_are_the_same_bits_alone(vocab_size: int) -> None:
    logits = torch.randn(5, vocab_size, generator=torch.Generator().manual_seed(4)) * 3
    params = [
        SamplingParams(temperature=0.7, typical_p=0.8),
        SamplingParams(temperature=1.3, top_p=0.9, typical_p=0.9),
        SamplingParams(top_k=20, top_p=0.9, min_p=0.1, typical_p=0.9),
        SamplingParams(temperature=3.0),
        SamplingParams(typical_p=0.2),
    ]
    together = filtered(logits, params)
    for i in range(5):
        single = filtered(logits[i : i + 1], params[i : i + 1])[0]
        assert torch.equal(single, together[i])
