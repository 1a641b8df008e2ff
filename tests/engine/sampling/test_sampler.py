"""The sampler as a whole: distribution, independence of rows, isolation of bad rows."""

import math
from collections import Counter
from dataclasses import replace

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lorax_serve.engine.sampling.rows import MaskRows, SamplingRow
from lorax_serve.engine.sampling.sampler import Sampled, sample
from lorax_serve.ipc.types import SamplingParams
from sampling_cases import any_row, masks, row, transformers_scores

GREEDY = SamplingParams(temperature=0.0)
FILTERED = SamplingParams(
    temperature=1.7,
    top_k=9,
    top_p=0.95,
    min_p=0.02,
    typical_p=0.97,
    repetition_penalty=1.4,
)


def random_logits(num_rows: int, vocab_size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, vocab_size, generator=generator) * 3


def alone(logits: Tensor, rows: list[SamplingRow], mask: MaskRows | None, i: int) -> Sampled:
    own = None
    if mask is not None and i in mask.rows.tolist():
        place = mask.rows.tolist().index(i)
        own = MaskRows(torch.tensor([0]), mask.bitmask[place : place + 1])
    return sample(logits[i : i + 1], [rows[i]], own)


def assert_rows_equal_alone(
    logits: Tensor, rows: list[SamplingRow], mask: MaskRows | None
) -> Sampled:
    together = sample(logits, rows, mask)
    for i in range(len(rows)):
        single = alone(logits, rows, mask, i)
        assert single.token_ids[0] == together.token_ids[i]
        assert single.logprobs[0] == together.logprobs[i]
        assert single.finite[0] == together.finite[i]
    return together


# Distribution


def p_value(counts: Counter[int], probs: Tensor) -> float:
    """Of Pearson's chi-square test that the counts come from `probs` [V]."""
    possible = probs.nonzero().flatten().tolist()
    assert set(counts) <= set(possible)
    expected = {token_id: counts.total() * probs[token_id].item() for token_id in possible}
    statistic = sum((counts[i] - mean) ** 2 / mean for i, mean in expected.items())
    freedom = torch.tensor((len(possible) - 1) / 2)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2)))


@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=1.5), FILTERED], ids=["plain", "all"]
)
@pytest.mark.parametrize("vary", ["seed", "index"])
def test_samples_follow_the_filtered_distribution(params: SamplingParams, vary: str) -> None:
    logits, prompt = random_logits(1, 12), [0, 3, 3]
    probs = transformers_scores(logits[0], params, prompt).softmax(-1)
    assert (probs > 0).sum() > 4
    if vary == "seed":
        rows = [row(msgspec.structs.replace(params, seed=n), prompt) for n in range(2000)]
    else:  # token 0 is penalised by the prompt already, so that a longer output changes nothing
        rows = [row(params, prompt, [0] * n) for n in range(2000)]
    sampled = sample(logits.expand(2000, -1), rows, None)
    assert p_value(Counter(sampled.token_ids), probs) > 0.01


def test_same_seed_and_index_same_token() -> None:
    logits = random_logits(1, 500).expand(3, -1)
    params = SamplingParams(temperature=5.0, seed=9)
    rows = [row(params, [1, 2], [7]), row(params, [3], [8]), row(params, [3], [8, 9])]
    token_ids = sample(logits, rows, None).token_ids
    assert token_ids[0] == token_ids[1] != token_ids[2]


# Greedy


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=0.0, top_k=3, top_p=0.1)])
def test_greedy_is_argmax_whatever_the_filters_say(params: SamplingParams) -> None:
    logits = random_logits(6, 512).round()  # with ties
    expected = logits.argmax(-1).tolist()
    for num_drawn in (0, 3):
        rows = [row(SamplingParams(seed=i)) for i in range(num_drawn)] + [row(params)] * 6
        mixed = torch.cat([random_logits(num_drawn, 512, seed=1), logits])
        assert list(sample(mixed, rows, None).token_ids[num_drawn:]) == expected


def test_greedy_looks_at_penalised_biased_masked_logits() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0]]).repeat(5, 1)
    rows = [
        row(GREEDY),
        row(msgspec.structs.replace(GREEDY, repetition_penalty=1.3), [0]),
        row(msgspec.structs.replace(GREEDY, presence_penalty=2.0), [], [0, 1]),
        row(msgspec.structs.replace(GREEDY, logit_bias=((3, 10.0),))),
        row(GREEDY),
    ]
    sampled = sample(logits, rows, masks({4: [2, 3]}, 4))
    assert sampled.token_ids == (0, 1, 0, 3, 2)


def test_a_bias_never_lifts_a_masked_token() -> None:
    rows = [row(SamplingParams(temperature=t, logit_bias=((0, 100.0),))) for t in (0.0, 1.0)]
    sampled = sample(torch.zeros(2, 40), rows, masks({0: [33], 1: [33]}, 40))
    assert sampled.token_ids == (33, 33)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_banned_is_never_picked_however_likely(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, logit_bias=((1, 100.0),), num_logprobs=1)
    logits = torch.tensor([[0.0, 50.0, -50.0]])
    sampled = sample(logits, [SamplingRow(params, [], [], (0, 1))], None)
    assert sampled.token_ids == (2,)
    assert sampled.logprobs[0] is not None
    assert sampled.logprobs[0].logprob == pytest.approx(-100.0)  # the model's own


# Independence


@given(st.data(), st.sampled_from([32, 33, 256, 1000]), st.integers(1, 9))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_a_row_is_the_same_bits_alone_and_in_any_batch(
    data: st.DataObject, vocab_size: int, num_rows: int
) -> None:
    logits = random_logits(num_rows, vocab_size, data.draw(st.integers(0, 1000)))
    rows = [data.draw(any_row(vocab_size)) for _ in range(num_rows)]
    masked = data.draw(st.sets(st.integers(0, num_rows - 1)))
    token_ids = st.lists(st.integers(0, vocab_size - 1), min_size=1)
    mask = masks({i: data.draw(token_ids) for i in masked}, vocab_size) if masked else None
    rows = [
        replace(each, banned_token_ids=()) if i in masked else each for i, each in enumerate(rows)
    ]
    before = logits.clone()
    sampled = assert_rows_equal_alone(logits, rows, mask)
    assert all(sampled.finite)
    for token_id, each in zip(sampled.token_ids, rows, strict=True):
        assert token_id not in each.banned_token_ids
    assert torch.equal(logits, before)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_rows_wide_enough_for_threads_are_the_same_bits_too() -> None:
    logits = random_logits(7, 49152)
    every = SamplingParams(temperature=0.8, num_logprobs=20)
    changes: list[dict[str, float]] = [
        {"top_p": 0.9},
        {"top_p": 0.999},
        {"typical_p": 0.6},
        {"top_k": 5000},
        {"min_p": 0.01},
        {"temperature": 0.0},
        {},
    ]
    rows = [row(msgspec.structs.replace(every, seed=i, **c)) for i, c in enumerate(changes)]
    assert_rows_equal_alone(logits, rows, None)


# Bad rows


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=0.5), FILTERED])
def test_a_bad_row_fails_alone(bad: float, params: SamplingParams) -> None:
    params = msgspec.structs.replace(params, num_logprobs=2)
    logits = random_logits(5, 600)
    rows = [row(msgspec.structs.replace(params, seed=i), [1], [2]) for i in range(5)]
    clean = sample(logits, rows, None)
    logits[1, 599], logits[3] = bad, -math.inf
    sampled = sample(logits, rows, None)
    assert sampled.finite == (True, False, True, False, True)
    for i in (0, 2, 4):
        assert sampled.token_ids[i] == clean.token_ids[i]
        assert sampled.logprobs[i] == clean.logprobs[i] is not None
    for i in (1, 3):
        assert sampled.token_ids[i] == 0
        assert sampled.logprobs[i] is None


def test_a_mask_cannot_hide_a_nan() -> None:
    logits = torch.zeros(1, 40)
    logits[0, 5] = math.nan
    assert sample(logits, [row(GREEDY)], masks({0: [6]}, 40)).finite == (False,)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_that_allows_nothing_fails_its_row_alone(temperature: float) -> None:
    rows = [row(SamplingParams(temperature=temperature, top_p=0.5, num_logprobs=1))] * 3
    sampled = sample(random_logits(3, 40), rows, masks({0: [39], 1: []}, 40))
    assert sampled.finite == (True, False, True)
    assert sampled.token_ids[:2] == (39, 0)
    assert sampled.logprobs[1] is None


def test_logits_pushed_past_infinity_fail_their_row_alone() -> None:
    params = SamplingParams(repetition_penalty=1e-2)
    logits = torch.tensor([[3e38, 0.0], [1.0, 0.0]])
    assert sample(logits, [row(params, [0])] * 2, None).finite == (False, True)


# Extremes


def test_impossible_tokens_are_never_picked() -> None:
    logits = random_logits(1, 100).expand(500, -1).clone()
    logits[:, ::2] = -math.inf
    rows = [row(SamplingParams(temperature=100, seed=i)) for i in range(500)]
    token_ids = sample(logits, rows, None).token_ids
    assert all(token_id % 2 == 1 for token_id in token_ids)
    assert len(set(token_ids)) == 50


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1e-8),
        SamplingParams(temperature=5e-324),
        SamplingParams(temperature=100, top_p=1e-9),
        SamplingParams(temperature=100, top_k=1),
        SamplingParams(temperature=100, min_p=1.0),
    ],
)
def test_extremes_that_amount_to_greedy(params: SamplingParams) -> None:
    logits = random_logits(4, 300)
    logits[1] *= 1e37
    logits[2, 7:] = -math.inf
    rows = [row(msgspec.structs.replace(params, seed=i)) for i in range(4)]
    assert list(sample(logits, rows, None).token_ids) == logits.argmax(-1).tolist()


# Log-probabilities


def test_logprobs_are_those_of_the_model_for_the_rows_that_ask() -> None:
    logits = random_logits(4, 64)
    expected = logits.double().log_softmax(-1)
    params = SamplingParams(
        temperature=0.0, repetition_penalty=5.0, logit_bias=((8, 100.0),), num_logprobs=3
    )
    rows = [row(params, [1, 2]), row(GREEDY), row(params), row(SamplingParams(num_logprobs=0))]
    sampled = sample(logits, rows, masks({2: [9, 10]}, 64))
    assert sampled.token_ids[0] == 8
    assert sampled.logprobs[1] is None
    for i in (0, 2, 3):
        entry = sampled.logprobs[i]
        assert entry is not None
        assert entry.logprob == pytest.approx(expected[i, sampled.token_ids[i]].item(), abs=1e-5)
        best = [] if i == 3 else expected[i].topk(3).indices.tolist()
        assert [token_id for token_id, _ in entry.top] == best


# The door


def test_no_rows() -> None:
    assert sample(torch.zeros(0, 10), [], None) == Sampled((), (), ())


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="token 10"):
        sample(torch.zeros(1, 10), [row(SamplingParams(logit_bias=((10, 1.0),)))], None)


@pytest.mark.parametrize("logits", [torch.zeros(2, 10), torch.zeros(1, 10, dtype=torch.int64)])
def test_other_shapes_and_types_are_refused(logits: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected float logits \[1, V\]"):
        sample(logits, [row(GREEDY)], None)


def test_sixteen_bit_logits_are_sampled_as_their_float32_values() -> None:
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    params = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.9, seed=1, top_p=0.8),
        SamplingParams(temperature=0.7, seed=2, top_k=9, num_logprobs=3),
        SamplingParams(temperature=0.0, repetition_penalty=1.5),
        SamplingParams(temperature=1.3, seed=3, typical_p=0.6),
        SamplingParams(temperature=0.0, num_logprobs=0),
    ]
    rows = [SamplingRow(each, [1, 2, 3], [4, 5]) for each in params]
    assert sample(logits, rows, None) == sample(logits.float(), rows, None)
