"""The first highest logit of each row, in two launches: over runs of tokens, then over the runs.

A logit and its token become one integer that orders as (logit, lower token id first): its maximum
is the answer, whatever the order in which it is taken. NaN counts as highest, as in torch.argmax.

Legend: N rows, V vocabulary, R runs per row.
"""

import torch
import triton
import triton.language as tl

RUN = 4096  # tokens of one program: 8 KB of 16-bit logits, and 32 runs of a row of 128k
_NO_TOKEN = 0x7FFFFFFF


@triton.jit
def _ordered(logits):
    """Integers int32 that order as float32 logits do: NaN highest, zeros of either sign equal."""
    bits = tl.where(logits == 0.0, 0.0, logits).to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(logits == logits, bits, 0x7FFFFFFF)


@triton.jit
def _run_maxima_kernel(
    logits_ptr, row_stride, runs_ptr, V: tl.constexpr, RUN: tl.constexpr, NO_TOKEN: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    tokens = tl.program_id(1) * RUN + tl.arange(0, RUN)
    in_row = tokens < V
    logits = tl.load(logits_ptr + row * row_stride + tokens, mask=in_row, other=float("-inf"))
    ranks = (_ordered(logits.to(tl.float32)).to(tl.int64) << 32) | (NO_TOKEN - tokens).to(tl.int64)
    # A token beyond the row never beats one of the row: its id is higher, so its rank is lower.
    top = tl.max(ranks, axis=0)
    tl.store(runs_ptr + row * tl.num_programs(1) + tl.program_id(1), top)


@triton.jit
def _row_maxima_kernel(
    runs_ptr,
    token_ids_ptr,
    maxima_ptr,
    finite_ptr,
    NUM_RUNS: tl.constexpr,
    BLOCK: tl.constexpr,
    NO_TOKEN: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    runs = tl.arange(0, BLOCK)
    mask = runs < NUM_RUNS
    ranks = tl.load(runs_ptr + row * NUM_RUNS + runs, mask=mask, other=-0x7FFFFFFFFFFFFFFF)
    top = tl.max(ranks, axis=0)
    bits = (top >> 32).to(tl.int32)
    maximum = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    is_finite = tl.abs(maximum) < float("inf")
    token_id = NO_TOKEN - (top & 0xFFFFFFFF)
    tl.store(token_ids_ptr + row, tl.where(is_finite, token_id, 0))
    tl.store(maxima_ptr + row, maximum)
    tl.store(finite_ptr + row, is_finite.to(tl.uint8))


def highest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(token ids [N] int64, their logits [N] float32, whether those are finite [N] bool).

    logits: [N, V] of a floating type, rows contiguous. The id is 0 where the highest is not finite.
    """
    num_rows, vocab_size = logits.shape
    num_runs = triton.cdiv(vocab_size, RUN)
    runs = torch.empty(num_rows, num_runs, dtype=torch.int64, device=logits.device)
    token_ids = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    maxima = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
    finite = torch.empty(num_rows, dtype=torch.uint8, device=logits.device)
    if num_rows > 0:
        _run_maxima_kernel[(num_rows, num_runs)](
            logits, logits.stride(0), runs, vocab_size, RUN, _NO_TOKEN, num_warps=4
        )
        _row_maxima_kernel[(num_rows,)](
            runs,
            token_ids,
            maxima,
            finite,
            num_runs,
            triton.next_power_of_2(num_runs),
            _NO_TOKEN,
            num_warps=1,
        )
    return token_ids, maxima, finite.view(torch.bool)
