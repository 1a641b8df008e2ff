"""Top-k, top-p, min-p and typical-p on a row's candidates, and the draw from what they leave.

The first three keep the tokens up to some key; so does a bisection over keys find each, one pass
over the candidates a step. Typical-p then keeps, among those, the tokens up to some distance.
Meanings, with what happens to ties: engine/sampling/filters.py. Sums are of integers (see
sampling_scores), the entropy's apart, which one program adds up in a fixed order.

Legend: M rows, V vocabulary.
"""

import torch
import triton
import triton.language as tl

from lorax_serve.kernels.triton.sampling_candidates import BLOCK, candidates
from lorax_serve.kernels.triton.sampling_draw import target_of
from lorax_serve.kernels.triton.sampling_scores import (
    MIN_SCORE,
    TOP_K,
    TOP_P,
    TYPICAL_P,
    UNIFORM,
    costs_of,
    id_bits,
    last_key_of,
    weight_one,
    weights_of,
)


@triton.jit
def _scores_up_to(keys_ptr, places, count, last, ID_BITS: tl.constexpr):
    """Scores of the candidates at `places` whose key is at most `last`; -inf for others."""
    keys = tl.load(keys_ptr + places, mask=places < count, other=0x7FFFFFFFFFFFFFFF)
    scores = -(keys >> ID_BITS).to(tl.int32).to(tl.float32, bitcast=True)
    return tl.where((places < count) & (keys <= last), scores, float("-inf"))


@triton.jit
def _count(keys_ptr, count, last, BLOCK: tl.constexpr):
    """How many candidates have a key of at most `last`."""
    found = tl.zeros((BLOCK,), dtype=tl.int32)
    for start in range(0, count, BLOCK):
        places = start + tl.arange(0, BLOCK)
        keys = tl.load(keys_ptr + places, mask=places < count, other=0x7FFFFFFFFFFFFFFF)
        found += (keys <= last).to(tl.int32)
    return tl.sum(found, axis=0)


@triton.jit
def _weigh(
    keys_ptr,
    count,
    last,
    shift,
    farthest,
    ID_BITS: tl.constexpr,
    WEIGHT_ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The weight of the candidates up to key `last` and to distance `farthest`, int64.

    The distance of a score is |score + shift|, `farthest` the bits of one.
    """
    weights = tl.zeros((BLOCK,), dtype=tl.int64)
    for start in range(0, count, BLOCK):
        places = start + tl.arange(0, BLOCK)
        scores = _scores_up_to(keys_ptr, places, count, last, ID_BITS)
        is_near = costs_of(scores + shift) <= farthest
        weights += tl.where(is_near, weights_of(scores, WEIGHT_ONE), 0)
    return tl.sum(weights, axis=0)


@triton.jit
def _needed(p, total):
    """The least weight that is a share p of the total, at least 1."""
    needed = tl.ceil(p * total.to(tl.float64)).to(tl.int64)
    return tl.minimum(tl.maximum(needed, 1), total)


@triton.jit
def _entropy_shift(
    keys_ptr,
    count,
    last,
    total,
    ID_BITS: tl.constexpr,
    WEIGHT_ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What turns a score into its log-probability plus the entropy: the mean of -score."""
    costs = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, count, BLOCK):
        places = start + tl.arange(0, BLOCK)
        scores = _scores_up_to(keys_ptr, places, count, last, ID_BITS)
        weights = weights_of(scores, WEIGHT_ONE)
        finite = tl.where(weights > 0, scores, 0.0)
        costs -= weights.to(tl.float64) * finite.to(tl.float64)
    mean = tl.sum(costs, axis=0) / tl.maximum(total, 1).to(tl.float64)
    return mean.to(tl.float32)


@triton.jit(do_not_specialize=("settings_ptr", "out_ptr"))
def _filter_and_draw_kernel(
    keys_ptr,
    counts_ptr,
    weights_ptr,
    settings_ptr,
    out_ptr,
    V: tl.constexpr,
    NUM_RUNS: tl.constexpr,
    RUNS_BLOCK: tl.constexpr,
    ID_BITS: tl.constexpr,
    WEIGHT_ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    keys_ptr += place * V
    count = tl.load(counts_ptr + place)
    setting_ptr = settings_ptr + place * 8
    last = last_key_of(tl.full((), 0x7F800000, tl.int32), ID_BITS)
    shift = tl.full((), 0.0, tl.float32)
    farthest = tl.full((), 0x7F800000, tl.int32)

    top_k = tl.load(setting_ptr + TOP_K).to(tl.int64)
    if (top_k > 0) & (top_k < count):
        low = tl.full((), 0, tl.int32)
        high = tl.full((), 0x7F800000, tl.int32)
        while low < high:
            middle = low + ((high - low) >> 1)
            is_enough = _count(keys_ptr, count, last_key_of(middle, ID_BITS), BLOCK) >= top_k
            high = tl.where(is_enough, middle, high)
            low = tl.where(is_enough, low, middle + 1)
        last = last_key_of(high, ID_BITS)

    top_p = tl.load(setting_ptr + TOP_P)
    if top_p < 1.0:
        # Without top-k, tokens that are no candidates count as well.
        runs = tl.arange(0, RUNS_BLOCK)
        of_runs = tl.load(weights_ptr + place * NUM_RUNS + runs, mask=runs < NUM_RUNS, other=0)
        total = tl.sum(of_runs, axis=0)
        if top_k > 0:
            total = _weigh(keys_ptr, count, last, shift, farthest, ID_BITS, WEIGHT_ONE, BLOCK)
        needed = _needed(top_p, total)
        first = tl.full((), 0, tl.int64)
        while first < last:
            key = first + ((last - first) >> 1)
            reached = _weigh(keys_ptr, count, key, shift, farthest, ID_BITS, WEIGHT_ONE, BLOCK)
            last = tl.where(reached >= needed, key, last)
            first = tl.where(reached >= needed, first, key + 1)

    min_score = tl.load(setting_ptr + MIN_SCORE).to(tl.float32)
    last = tl.minimum(last, last_key_of(costs_of(min_score), ID_BITS))

    total = _weigh(keys_ptr, count, last, shift, farthest, ID_BITS, WEIGHT_ONE, BLOCK)
    typical_p = tl.load(setting_ptr + TYPICAL_P)
    if typical_p < 1.0:
        shift = _entropy_shift(keys_ptr, count, last, total, ID_BITS, WEIGHT_ONE, BLOCK)
        needed = _needed(typical_p, total)
        nearest = tl.full((), 0, tl.int32)
        while nearest < farthest:
            distance = nearest + ((farthest - nearest) >> 1)
            reached = _weigh(keys_ptr, count, last, shift, distance, ID_BITS, WEIGHT_ONE, BLOCK)
            farthest = tl.where(reached >= needed, distance, farthest)
            nearest = tl.where(reached >= needed, nearest, distance + 1)
        total = _weigh(keys_ptr, count, last, shift, farthest, ID_BITS, WEIGHT_ONE, BLOCK)

    target = target_of(tl.load(setting_ptr + UNIFORM), total)
    running = tl.full((), 0, tl.int64)
    drawn = count - 1
    for start in range(0, count, BLOCK):
        places = start + tl.arange(0, BLOCK)
        scores = _scores_up_to(keys_ptr, places, count, last, ID_BITS)
        is_near = costs_of(scores + shift) <= farthest
        weights = tl.where(is_near, weights_of(scores, WEIGHT_ONE), 0)
        is_beyond = running + tl.cumsum(weights, axis=0) > target
        drawn = tl.minimum(drawn, tl.min(tl.where(is_beyond, places, count), axis=0))
        running += tl.sum(weights, axis=0)
    key = tl.load(keys_ptr + drawn, mask=drawn >= 0, other=0)
    tl.store(out_ptr + place, key & ((1 << ID_BITS) - 1))


def draw_filtered(
    logits: torch.Tensor, maxima: torch.Tensor, settings: torch.Tensor, out: torch.Tensor
) -> None:
    """Token ids into out [M] int64, from the distributions that the rows' filters leave.

    logits [N, V] of a floating type, rows contiguous; maxima [N] float32; settings [M, 8] float64,
    see sampling_scores. A row whose maximum is not finite gets any id.
    """
    vocab_size = logits.shape[1]
    found = candidates(logits, maxima, settings)
    num_runs = found.weights.shape[1]
    _filter_and_draw_kernel[(len(settings),)](
        found.keys,
        found.counts,
        found.weights,
        settings,
        out,
        vocab_size,
        num_runs,
        triton.next_power_of_2(num_runs),
        id_bits(vocab_size),
        weight_one(vocab_size),
        min(BLOCK, triton.next_power_of_2(vocab_size)),
        num_warps=8,
    )
