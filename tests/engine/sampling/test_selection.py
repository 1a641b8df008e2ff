"""The arg-max against torch's, and the inverse CDF against its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.sampling.selection import draw, highest

ALMOST_ONE = 1 - 2**-53


@pytest.mark.parametrize("vocab_size", [1, 7, 16, 48, 256, 1000, 4096, 50257])
def test_highest_is_torch_argmax(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(5, vocab_size, generator=generator)
    logits[1] = logits[1].round()  # many ties
    logits[2] = -math.inf
    logits[3, vocab_size // 2] = math.nan
    logits[4] = 0
    token_ids, values = highest(logits)
    assert torch.equal(token_ids, logits.argmax(-1))
    assert torch.equal(values.nan_to_num(7.5), logits.amax(-1).nan_to_num(7.5))


def test_highest_takes_the_first_of_equals_across_blocks() -> None:
    logits = torch.zeros(1, 1024)
    logits[0, [300, 290, 900]] = 1.0
    assert highest(logits)[0].tolist() == [290]


def test_highest_of_no_rows_is_empty() -> None:
    assert highest(torch.zeros(0, 512))[0].tolist() == []


def test_highest_reads_a_slice_of_wider_rows() -> None:
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(highest(logits[:, :512])[0], logits[:, :512].argmax(-1))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(any),
    st.floats(0, 1, exclude_max=True),
)
@settings(derandomize=True)
def test_draw_inverts_the_cdf_in_vocabulary_order(weights: list[int], uniform: float) -> None:
    scores = torch.tensor([weights]).log()
    token_id = int(draw(scores, torch.tensor([uniform], dtype=torch.float64)))
    below, total = sum(weights[:token_id]), sum(weights)
    assert weights[token_id] > 0
    assert below / total - 1e-6 <= uniform <= (below + weights[token_id]) / total + 1e-6


@pytest.mark.parametrize("vocab_size", [2, 1000, 50000])
def test_the_ends_of_the_interval_never_pick_an_impossible_token(vocab_size: int) -> None:
    scores = torch.randn(2, vocab_size, generator=torch.Generator().manual_seed(4))
    scores[:, 0] = -math.inf
    scores[:, -vocab_size // 3 :] = -math.inf
    scores[:, 1] = 0.0 if vocab_size == 2 else scores[:, 1]
    last = int((scores[1] > -math.inf).nonzero().max())
    uniforms = torch.tensor([0.0, ALMOST_ONE], dtype=torch.float64)
    assert draw(scores, uniforms).tolist() == [1, last]


def test_a_tail_too_small_to_count_is_not_picked() -> None:
    scores = torch.tensor([[0.0, -1000.0, -1000.0]])
    assert draw(scores, torch.tensor([ALMOST_ONE], dtype=torch.float64)).tolist() == [0]
