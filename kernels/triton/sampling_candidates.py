"""The few tokens of a row that a filter can keep, found without sorting it.

Every group of tokens has one at its lowest cost, so the k-th lowest of those costs is no less than
the k-th lowest of all: tokens beyond it are not among the k. Tokens whose shares of the whole
weight are below (1 - p) / V do not weigh 1 - p together: the others reach p without them.

Legend: M rows, V vocabulary, G groups.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from lorax_serve.kernels.triton.sampling_scores import (
    TOP_K,
    TOP_P,
    costs_of,
    id_bits,
    lowest_score,
    row_scores,
    survey,
    weight_one,
)

BLOCK = 4096


class Candidates(NamedTuple):
    """Keys of some tokens, in the order of their ids."""

    keys: torch.Tensor  # [M, V] int64, of which the first ones count
    counts: torch.Tensor  # [M] int32
    weights: torch.Tensor  # [M, R] int64, of the row's runs of tokens, candidates or not


@triton.jit
def _highest_cost(
    costs_ptr,
    weights_ptr,
    top_k,
    top_p,
    V: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUPS_BLOCK: tl.constexpr,
    NUM_RUNS: tl.constexpr,
    RUNS_BLOCK: tl.constexpr,
    WEIGHT_ONE: tl.constexpr,
    LOWEST_SCORE: tl.constexpr,
):
    """int32; what costs more is kept by no filter."""
    groups = tl.arange(0, GROUPS_BLOCK)
    highest = tl.full((), 0x7F800000, tl.int32)
    if (top_k > 0) & (top_k <= NUM_GROUPS):
        costs = tl.load(costs_ptr + groups, mask=groups < NUM_GROUPS, other=0x7FFFFFFF)
        low = tl.full((), 0, tl.int32)
        while low < highest:
            middle = low + ((highest - low) >> 1)
            is_enough = tl.sum((costs <= middle).to(tl.int32), axis=0) >= top_k
            highest = tl.where(is_enough, middle, highest)
            low = tl.where(is_enough, low, middle + 1)
    elif (top_k == 0) & (top_p < 1.0):
        runs = tl.arange(0, RUNS_BLOCK)
        total = tl.sum(tl.load(weights_ptr + runs, mask=runs < NUM_RUNS, other=0), axis=0)
        # The margin covers the rounding of the exponentials and of this.
        share = (1.0 - top_p) * total.to(tl.float64) / (V * WEIGHT_ONE)
        score = tl.minimum(tl.log(share.to(tl.float32)) - 0.01, 0.0)
        highest = tl.minimum(highest, costs_of(score))
    return tl.minimum(highest, costs_of(tl.full((), LOWEST_SCORE, tl.float32)))


@triton.jit(do_not_specialize=("settings_ptr",))
def _candidates_kernel(
    logits_ptr,
    row_stride,
    maxima_ptr,
    settings_ptr,
    costs_ptr,
    weights_ptr,
    keys_ptr,
    counts_ptr,
    V: tl.constexpr,
    NUM_GROUPS: tl.constexpr,
    GROUPS_BLOCK: tl.constexpr,
    NUM_RUNS: tl.constexpr,
    RUNS_BLOCK: tl.constexpr,
    ID_BITS: tl.constexpr,
    WEIGHT_ONE: tl.constexpr,
    LOWEST_SCORE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    setting_ptr = settings_ptr + place * 8
    highest = _highest_cost(
        costs_ptr + place * NUM_GROUPS,
        weights_ptr + place * NUM_RUNS,
        tl.load(setting_ptr + TOP_K).to(tl.int64),
        tl.load(setting_ptr + TOP_P),
        V,
        NUM_GROUPS,
        GROUPS_BLOCK,
        NUM_RUNS,
        RUNS_BLOCK,
        WEIGHT_ONE,
        LOWEST_SCORE,
    )
    keys_ptr += place * V
    count = tl.full((), 0, tl.int32)
    for start in range(0, V, BLOCK):
        tokens = start + tl.arange(0, BLOCK)
        scores = row_scores(logits_ptr, row_stride, maxima_ptr, setting_ptr, tokens, tokens < V)
        costs = costs_of(scores)
        is_candidate = (costs <= highest) & (tokens < V)
        ones = is_candidate.to(tl.int32)
        places = count + tl.cumsum(ones, axis=0) - ones
        keys = (costs.to(tl.int64) << ID_BITS) | tokens.to(tl.int64)
        tl.store(keys_ptr + places, keys, mask=is_candidate)
        count += tl.sum(ones, axis=0)
    tl.store(counts_ptr + place, count)


def candidates(
    logits: torch.Tensor, maxima: torch.Tensor, settings: torch.Tensor, *, impossible: bool = False
) -> Candidates:
    """The tokens that top-k and top-p may keep, and perhaps some more.

    logits [N, V] of a floating type, rows contiguous; maxima [N] float32; settings [M, 8] float64,
    see sampling_scores. `impossible`: tokens of weight 0 may be among them.
    """
    num_rows, vocab_size = len(settings), logits.shape[1]
    weights, costs = survey(logits, maxima, settings)
    num_groups, num_runs = costs.shape[1], weights.shape[1]
    keys = torch.empty(num_rows, vocab_size, dtype=torch.int64, device=logits.device)
    counts = torch.empty(num_rows, dtype=torch.int32, device=logits.device)
    _candidates_kernel[(num_rows,)](
        logits,
        logits.stride(0),
        maxima,
        settings,
        costs,
        weights,
        keys,
        counts,
        vocab_size,
        num_groups,
        triton.next_power_of_2(num_groups),
        num_runs,
        triton.next_power_of_2(num_runs),
        id_bits(vocab_size),
        weight_one(vocab_size),
        float("-inf") if impossible else lowest_score(vocab_size),
        min(BLOCK, triton.next_power_of_2(vocab_size)),
        num_warps=8,
    )
    return Candidates(keys, counts, weights)
