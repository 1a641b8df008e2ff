"""A draw from a row's whole distribution, by inverse CDF in vocabulary order.

The survey has weighed the runs of a row: the run that the random number points into is found among
them, then the token within that run. Meaning: `draw` in engine/sampling/selection.py.
"""

import torch
import triton
import triton.language as tl

from lorax_serve.kernels.triton.sampling_scores import (
    RUN,
    UNIFORM,
    row_scores,
    survey,
    weight_one,
    weights_of,
)


@triton.jit
def target_of(uniform, total):
    """uniform * total int64, below total: the token whose running weight first exceeds it."""
    return tl.minimum((uniform * total.to(tl.float64)).to(tl.int64), total - 1)


@triton.jit(do_not_specialize=("settings_ptr", "out_ptr"))
def _draw_kernel(
    logits_ptr,
    row_stride,
    maxima_ptr,
    settings_ptr,
    weights_ptr,
    out_ptr,
    V: tl.constexpr,
    RUN: tl.constexpr,
    NUM_RUNS: tl.constexpr,
    BLOCK: tl.constexpr,
    WEIGHT_ONE: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    setting_ptr = settings_ptr + place * 8
    runs = tl.arange(0, BLOCK)
    of_runs = tl.load(weights_ptr + place * NUM_RUNS + runs, mask=runs < NUM_RUNS, other=0)
    target = target_of(tl.load(setting_ptr + UNIFORM), tl.sum(of_runs, axis=0))
    is_before = tl.cumsum(of_runs, axis=0) <= target
    run = tl.minimum(tl.sum(is_before.to(tl.int32), axis=0), NUM_RUNS - 1)
    target -= tl.sum(tl.where(is_before, of_runs, 0), axis=0)
    tokens = run * RUN + tl.arange(0, RUN)
    scores = row_scores(logits_ptr, row_stride, maxima_ptr, setting_ptr, tokens, tokens < V)
    running = tl.cumsum(weights_of(scores, WEIGHT_ONE), axis=0)
    token = run * RUN + tl.sum((running <= target).to(tl.int32), axis=0)
    tl.store(out_ptr + place, tl.minimum(token, V - 1).to(tl.int64))


def draw_whole(
    logits: torch.Tensor, maxima: torch.Tensor, settings: torch.Tensor, out: torch.Tensor
) -> None:
    """Token ids into out [M] int64, by temperature and uniform number alone.

    logits [N, V] of a floating type, rows contiguous; maxima [N] float32; settings [M, 8] float64,
    see sampling_scores. A row whose maximum is not finite gets any id.
    """
    vocab_size = logits.shape[1]
    weights, _ = survey(logits, maxima, settings)
    num_runs = weights.shape[1]
    _draw_kernel[(len(settings),)](
        logits,
        logits.stride(0),
        maxima,
        settings,
        weights,
        out,
        vocab_size,
        RUN,
        num_runs,
        triton.next_power_of_2(num_runs),
        weight_one(vocab_size),
        num_warps=8,
    )
