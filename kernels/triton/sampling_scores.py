"""What the sampling kernels share: a token's score, its weight, and the key that ranks it.

A score is (logit - highest logit of the row) / temperature: 0 or less. A weight is its exponential
in fixed point, truncated: integers add up to the same sum in any order, so a row's result depends
on nothing but the row. A key holds a token's cost, the bits of -score, above its id: keys order as
(cost, id), as do those of engine/sampling/ranking.py, whose ids take 32 bits.

The weights of a row add up to less than 2^62. A token of weight 0, e^-30 times as likely as the
most likely one for 128k tokens, is never drawn.

Legend: M rows of `settings`, V vocabulary, G groups of tokens.
"""

import math

import torch
import triton
import triton.language as tl

NUM_SETTINGS = 8  # [M, 8] float64, 64 bytes a row, columns as below
ROW = tl.constexpr(0)  # of the logits and of their maxima
TEMPERATURE = tl.constexpr(1)  # above 0, also in float32
TOP_K = tl.constexpr(2)  # 0: off
TOP_P = tl.constexpr(3)  # 1: off
MIN_SCORE = tl.constexpr(4)  # min-p's logarithm; -inf: off
TYPICAL_P = tl.constexpr(5)  # 1: off
UNIFORM = tl.constexpr(6)  # in [0, 1)

RUN = 4096  # tokens a program surveys, as GROUPS groups
GROUP = 64


def id_bits(vocab_size: int) -> int:
    """Low bits of a key."""
    return max(1, (vocab_size - 1).bit_length())


def weight_one(vocab_size: int) -> float:
    """The weight of a score of 0, a power of two."""
    return 2.0 ** (62 - vocab_size.bit_length())


def lowest_score(vocab_size: int) -> float:
    """All scores below have weight 0."""
    return -math.log(weight_one(vocab_size)) - 0.01


@triton.jit
def scores_of(logits, maximum, temperature):
    """float32, in the operations of engine/sampling/filters.py; -inf where they make no sense."""
    scores = tl.div_rn(logits.to(tl.float32) - maximum, temperature)
    return tl.where(scores <= 0.0, scores, float("-inf"))


@triton.jit
def costs_of(scores):
    """int32 bits of -score, which order as the numbers do: 0 to the bits of infinity."""
    return tl.abs(scores).to(tl.int32, bitcast=True)


@triton.jit
def weights_of(scores, WEIGHT_ONE: tl.constexpr):
    """int64"""
    return (tl.exp(scores) * WEIGHT_ONE).to(tl.int64)


@triton.jit
def last_key_of(cost, ID_BITS: tl.constexpr):
    """The highest key of a cost, int64."""
    return (cost.to(tl.int64) << ID_BITS) | ((1 << ID_BITS) - 1)


@triton.jit
def row_scores(logits_ptr, row_stride, maxima_ptr, setting_ptr, tokens, mask):
    """Scores of some tokens of the row that `setting_ptr` [8] is about; -inf outside the mask."""
    row = tl.load(setting_ptr + ROW).to(tl.int64)
    logits = tl.load(logits_ptr + row * row_stride + tokens, mask=mask, other=float("-inf"))
    temperature = tl.load(setting_ptr + TEMPERATURE).to(tl.float32)
    return scores_of(logits, tl.load(maxima_ptr + row), temperature)


@triton.jit(do_not_specialize=("settings_ptr",))
def _survey_kernel(
    logits_ptr,
    row_stride,
    maxima_ptr,
    settings_ptr,
    weights_ptr,
    costs_ptr,
    V: tl.constexpr,
    RUN: tl.constexpr,
    GROUP: tl.constexpr,
    WEIGHT_ONE: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    run = tl.program_id(1)
    num_groups: tl.constexpr = RUN // GROUP
    groups = run * num_groups + tl.arange(0, num_groups)
    tokens = groups[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    setting_ptr = settings_ptr + place * 8
    scores = row_scores(logits_ptr, row_stride, maxima_ptr, setting_ptr, tokens, tokens < V)
    weights = tl.sum(tl.sum(weights_of(scores, WEIGHT_ONE), axis=1), axis=0)
    tl.store(weights_ptr + place * tl.num_programs(1) + run, weights)
    costs = tl.min(costs_of(scores), axis=1)
    tl.store(costs_ptr + place * (tl.num_programs(1) * num_groups) + groups, costs)


def survey(
    logits: torch.Tensor, maxima: torch.Tensor, settings: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight of each run of tokens [M, R] int64, lowest cost of each group [M, G] int32).

    logits [N, V] of a floating type, rows contiguous; maxima [N] float32; settings [M, 8] float64.
    """
    num_rows, vocab_size = len(settings), logits.shape[1]
    num_runs = triton.cdiv(vocab_size, RUN)
    num_groups = num_runs * (RUN // GROUP)
    weights = torch.empty(num_rows, num_runs, dtype=torch.int64, device=logits.device)
    costs = torch.empty(num_rows, num_groups, dtype=torch.int32, device=logits.device)
    _survey_kernel[(num_rows, num_runs)](
        logits,
        logits.stride(0),
        maxima,
        settings,
        weights,
        costs,
        vocab_size,
        RUN,
        GROUP,
        weight_one(vocab_size),
        num_warps=4,
    )
    return weights, costs
