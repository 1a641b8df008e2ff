"""Log-probabilities of the chosen token and of the most likely ones, of rows as the model made
them. The most likely come one by one, each the lowest key above the one before, so that equally
likely ones are ordered by id. Meaning: engine/sampling/logprobs.py.

Legend: M rows, V vocabulary, K alternatives.
"""

import torch
import triton
import triton.language as tl

from lorax_serve.kernels.triton.sampling_candidates import BLOCK, candidates
from lorax_serve.kernels.triton.sampling_scores import id_bits, row_scores, weight_one


@triton.jit(do_not_specialize=("settings_ptr", "num_top"))
def _logprobs_kernel(
    logits_ptr,
    row_stride,
    maxima_ptr,
    settings_ptr,
    token_ids_ptr,
    keys_ptr,
    counts_ptr,
    weights_ptr,
    chosen_ptr,
    top_ids_ptr,
    top_ptr,
    num_top,
    V: tl.constexpr,
    NUM_RUNS: tl.constexpr,
    RUNS_BLOCK: tl.constexpr,
    ID_BITS: tl.constexpr,
    WEIGHT_ONE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    runs = tl.arange(0, RUNS_BLOCK)
    weights = tl.load(weights_ptr + place * NUM_RUNS + runs, mask=runs < NUM_RUNS, other=0)
    total = tl.sum(weights, axis=0).to(tl.float64) / WEIGHT_ONE
    log_total = tl.log(total.to(tl.float32))
    setting_ptr = settings_ptr + place * 8
    token_id = tl.load(token_ids_ptr + place)
    chosen = row_scores(logits_ptr, row_stride, maxima_ptr, setting_ptr, token_id, token_id < V)
    tl.store(chosen_ptr + place, chosen - log_total)

    count = tl.load(counts_ptr + place)
    keys_ptr += place * V
    before = tl.full((), -1, tl.int64)
    for rank in range(num_top):
        lowest = tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64)
        for start in range(0, count, BLOCK):
            places = start + tl.arange(0, BLOCK)
            keys = tl.load(keys_ptr + places, mask=places < count, other=0x7FFFFFFFFFFFFFFF)
            keys = tl.where(keys > before, keys, 0x7FFFFFFFFFFFFFFF)
            lowest = tl.minimum(lowest, tl.min(keys, axis=0))
        score = -(lowest >> ID_BITS).to(tl.int32).to(tl.float32, bitcast=True)
        tl.store(top_ids_ptr + place * num_top + rank, lowest & ((1 << ID_BITS) - 1))
        tl.store(top_ptr + place * num_top + rank, score - log_total)
        before = lowest


def logprobs(
    logits: torch.Tensor,
    maxima: torch.Tensor,
    settings: torch.Tensor,
    token_ids: torch.Tensor,
    num_top: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(the chosen tokens' [M] float32, most likely ids [M, K] int64, theirs [M, K] float32).

    logits [N, V] of a floating type, rows contiguous; maxima [N] float32; settings [M, 8] float64
    with temperature 1 and top-k = max(1, num_top), see sampling_scores; token_ids [M] int64;
    num_top = K at most V. What a row gets whose maximum is not finite means nothing.
    """
    num_rows, vocab_size = len(settings), logits.shape[1]
    found = candidates(logits, maxima, settings, impossible=True)
    chosen = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
    top_ids = torch.empty(num_rows, num_top, dtype=torch.int64, device=logits.device)
    top = torch.empty(num_rows, num_top, dtype=torch.float32, device=logits.device)
    num_runs = found.weights.shape[1]
    _logprobs_kernel[(num_rows,)](
        logits,
        logits.stride(0),
        maxima,
        settings,
        token_ids,
        found.keys,
        found.counts,
        found.weights,
        chosen,
        top_ids,
        top,
        num_top,
        vocab_size,
        num_runs,
        triton.next_power_of_2(num_runs),
        id_bits(vocab_size),
        weight_one(vocab_size),
        min(BLOCK, triton.next_power_of_2(vocab_size)),
        num_warps=8,
    )
    return chosen, top_ids, top
