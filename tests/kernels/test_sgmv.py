"""The SGMV twin against a dense float64 product, for the traffic that serving brings."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch

from lorax_serve.kernels.lora import BASE_SLOT, Segments
from lorax_serve.kernels.sgmv import SiteWeights, TargetWeights, shrink_segments

WIDTH = 48
OUT = (40, 24, 8)  # the columns of three fused targets
NUM_ROWS = 64


def zipf_rows(seed: int) -> list[int]:
    rng = random.Random(seed)
    weights = [1 / rank**1.5 for rank in range(1, 13)]
    return rng.choices(range(12), weights, k=NUM_ROWS)


TRAFFIC: dict[str, list[int]] = {
    "identical": [0] * NUM_ROWS,
    "distinct": list(range(NUM_ROWS)),
    "uniform": [row // 8 for row in range(NUM_ROWS)],
    "zipf": zipf_rows(seed=1),
    "base_only": [BASE_SLOT] * NUM_ROWS,
    "half_base": [BASE_SLOT, 0] * (NUM_ROWS // 2),
    "one_row": [3],
}
RANKS = {
    "uniform_ranks": lambda slot: (16, 16, 16),
    "mixed_ranks": lambda slot: tuple(random.Random(slot).choice([0, 1, 4, 8, 100]) for _ in OUT),
    "rank_one": lambda slot: (1, 1, 1),
    "v_only": lambda slot: (0, 0, 8),
}
# Absolute, for sums whose terms and results are a few units large.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}


def segments_of(rows: Sequence[int]) -> Segments:
    rows = sorted(rows)
    starts = [i for i, slot in enumerate(rows) if i == 0 or rows[i - 1] != slot]
    return Segments(indptr=(*starts, len(rows)), slots=tuple(rows[i] for i in starts))


class Adapter:
    """One random adapter at one site, with its dense float64 product."""

    def __init__(self, slot: int, ranks: tuple[int, ...], dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(slot)
        total = sum(ranks)
        a = (torch.randn(total, WIDTH, generator=generator) / WIDTH**0.5).to(dtype)
        targets, rank_start, out_start = [], 0, 0
        self.dense = torch.zeros(WIDTH, sum(OUT), dtype=torch.float64)
        for rank, out in zip(ranks, OUT, strict=True):
            if rank:
                rows = slice(rank_start, rank_start + rank)
                columns = slice(out_start, out_start + out)
                b = (torch.randn(out, rank, generator=generator) / rank**0.5).to(dtype)
                targets.append(TargetWeights(b.t(), rows, columns))
                self.dense[:, columns] = a[rows].double().t() @ b.double().t()
                rank_start += rank
            out_start += out
        self.weights = SiteWeights(a.t(), tuple(targets)) if total else None


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("traffic", TRAFFIC)
def test_twin_equals_dense(traffic: str, ranks: str, dtype: torch.dtype) -> None:
    segments = segments_of(TRAFFIC[traffic])
    adapters = {
        slot: Adapter(slot, RANKS[ranks](slot), dtype)
        for slot in segments.slots
        if slot != BASE_SLOT
    }
    torch.manual_seed(0)
    x = torch.randn(segments.indptr[-1], WIDTH).to(dtype)
    y = torch.randn(segments.indptr[-1], sum(OUT)).to(dtype)
    expected = y.double()
    for start, stop, slot in zip(
        segments.indptr, segments.indptr[1:], segments.slots, strict=False
    ):
        if slot != BASE_SLOT:
            expected[start:stop] += x[start:stop].double() @ adapters[slot].dense
    untouched = y.clone()
    weights = [None if slot == BASE_SLOT else adapters[slot].weights for slot in segments.slots]
    shrink_segments(x, segments, weights).expand_into(y)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=TOLERANCE[dtype])
    for (start, stop), each in zip(pairwise(segments.indptr), weights, strict=True):
        if each is None:
            assert torch.equal(y[start:stop], untouched[start:stop])


def test_y_may_be_a_slice_of_something_wider() -> None:
    adapter = Adapter(5, (4, 4, 4), torch.float32)
    wide = torch.zeros(6, sum(OUT) + 10)
    x = torch.randn(6, WIDTH)
    shrunk = shrink_segments(x, segments_of([0] * 6), [adapter.weights])
    shrunk.expand_into(wide[:, 5:-5])
    expected = x.double() @ adapter.dense
    torch.testing.assert_close(wide[:, 5:-5].double(), expected, rtol=0, atol=2e-5)
    assert not wide[:, :5].any() and not wide[:, -5:].any()
