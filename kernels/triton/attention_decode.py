"""Attention of rows that each end a sequence, over the paged cache, on a GPU.

One program reads a run of a sequence's keys and values for one key-value head; the query heads that
share it are the rows of its products. Few sequences alone would leave most of the device idle, so
each is divided into splits, and a second kernel weighs the splits' results by their shares of the
softmax's sum. How many splits there are follows from sizes the host knows; how long each is follows
from the sequence's length, read on the device: a captured launch fits any lengths.

Reference: kernels/attention_reference.py. Split softmax: Dao et al., "Flash-Decoding for
long-context inference" (2023).

Legend: B sequences, H query heads, K key-value heads, G = H / K, D head size, S splits, P blocks
per table.
"""

import torch
import triton
import triton.language as tl

from lorax_serve.kernels.triton.paged_tiles import (
    NUM_STAGES,
    padded_head_dim,
    tile_keys,
    tile_slots,
)

# Sequences differ in length, and the device is done when its last program is: programs several
# times as many as run at once even that out.
PROGRAMS_PER_SM = 8
# A split shorter than this costs more to combine than it saves.
MIN_SPLIT_KEYS = 128
MAX_SPLITS = 64
FEW_SPLITS = 8
NO_WINDOW = 1 << 30
LOG2_E = 1.4426950408889634


@triton.jit
def _splits_of(context_len, window, num_splits, BLOCK_N: tl.constexpr):
    """A sequence's visible tiles (first, number) and tiles per split."""
    first_tile = tl.maximum(context_len - window, 0) // BLOCK_N
    num_tiles = tl.cdiv(context_len, BLOCK_N) - first_tile
    return first_tile, num_tiles, tl.cdiv(num_tiles, num_splits)


# Numbers that change from step to step, and tensors that may be slices of one buffer, must not have
# a kernel of their own each: compiling stops everyone.
@triton.jit(
    do_not_specialize=("tables_ptr", "table_stride", "context_lens_ptr", "window", "num_splits")
)
def _decode_kernel(
    q_ptr,
    q_row_stride,
    q_head_stride,
    cache_ptr,
    tables_ptr,
    table_stride,
    context_lens_ptr,
    out_ptr,
    lse_ptr,
    scale_log2,
    window,
    num_splits,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    IS_SPLIT: tl.constexpr,
):
    kv_head = tl.program_id(0)
    split = tl.program_id(1)
    sequence = tl.program_id(2).to(tl.int64)
    context_len = tl.load(context_lens_ptr + sequence)
    first_tile, num_tiles, split_tiles = _splits_of(context_len, window, num_splits, BLOCK_N)
    begin = first_tile + split * split_tiles
    end = tl.minimum(begin + split_tiles, first_tile + num_tiles)
    if IS_SPLIT:  # noqa: SIM102, a constant condition stands alone
        if begin >= end:
            return

    heads = tl.arange(0, BLOCK_G)
    dims = tl.arange(0, BLOCK_D)
    is_head = (heads < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    q = tl.load(
        q_ptr
        + sequence * q_row_stride
        + (kv_head * GROUP + heads)[:, None] * q_head_stride
        + dims[None, :],
        mask=is_head,
        other=0.0,
    )
    first_key = tl.maximum(context_len - window, 0)
    table_ptr = tables_ptr + sequence * table_stride
    keys_ptr = cache_ptr + kv_head * HEAD_DIM
    row_max = tl.full((BLOCK_G,), float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros((BLOCK_G,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_G, BLOCK_D), dtype=tl.float32)
    for tile in range(begin, end):
        tile_key = tile * BLOCK_N
        keys = tile_key + tl.arange(0, BLOCK_N)
        slots = tile_slots(table_ptr, tile_key, context_len, BLOCK_SIZE, BLOCK_N)
        is_visible = (keys >= first_key) & (keys < context_len)
        # What is not the sequence's own is never read: it may be NaN, and 0 * NaN is NaN.
        mask = is_visible[:, None]
        if HEAD_DIM < BLOCK_D:
            mask = mask & (dims < HEAD_DIM)[None, :]
        pointers = keys_ptr + slots[:, None] * (2 * NUM_KV_HEADS * HEAD_DIM) + dims[None, :]
        k = tl.load(pointers, mask=mask, other=0.0)
        v = tl.load(pointers + NUM_KV_HEADS * HEAD_DIM, mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(k), out_dtype=tl.float32, input_precision="ieee") * scale_log2
        scores = tl.where(is_visible[None, :], scores, float("-inf"))
        # Some key of every tile is visible: the maximum is finite.
        new_max = tl.maximum(row_max, tl.max(scores, axis=1))
        shrunk = tl.exp2(row_max - new_max)
        weights = tl.exp2(scores - new_max[:, None])
        row_sum = row_sum * shrunk + tl.sum(weights, axis=1)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrunk[:, None], input_precision="ieee")
        row_max = new_max

    # Any key makes the sum 1 or more; without keys the result is zero.
    out = acc / tl.maximum(row_sum, 1.0)[:, None]
    rows = (sequence * NUM_KV_HEADS + kv_head) * GROUP + heads
    if IS_SPLIT:
        rows = rows * num_splits + split
        tl.store(lse_ptr + rows, row_max + tl.log2(row_sum), mask=heads < GROUP)
    tl.store(
        out_ptr + rows[:, None] * HEAD_DIM + dims[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=is_head,
    )


@triton.jit(do_not_specialize=("context_lens_ptr", "window", "num_splits"))
def _combine_kernel(
    partials_ptr,
    lse_ptr,
    context_lens_ptr,
    out_ptr,
    window,
    num_splits,
    HEAD_DIM: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    head = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    context_len = tl.load(context_lens_ptr + sequence)
    _, num_tiles, split_tiles = _splits_of(context_len, window, num_splits, BLOCK_N)
    splits = tl.arange(0, BLOCK_S)
    dims = tl.arange(0, BLOCK_D)
    is_used = splits * split_tiles < num_tiles
    row = sequence * tl.num_programs(0) + head
    lse = tl.load(lse_ptr + row * num_splits + splits, mask=is_used, other=float("-inf"))
    partials = tl.load(
        partials_ptr + (row * num_splits + splits)[:, None] * HEAD_DIM + dims[None, :],
        mask=is_used[:, None] & (dims < HEAD_DIM)[None, :],
        other=0.0,
    )
    # Finite even without keys, where all weights are zero.
    top = tl.maximum(tl.max(lse, axis=0), -1e30)
    weights = tl.exp2(lse - top)
    out = tl.sum(weights[:, None] * partials, axis=0) / tl.maximum(tl.sum(weights, axis=0), 1.0)
    tl.store(
        out_ptr + row * HEAD_DIM + dims, out.to(out_ptr.dtype.element_ty), mask=dims < HEAD_DIM
    )


def split_count(num_sequences: int, num_kv_heads: int, max_keys: int, num_sms: int) -> int:
    """Splits of each sequence, when none has more than `max_keys` visible keys."""
    programs = num_sequences * num_kv_heads
    wanted = (PROGRAMS_PER_SM * num_sms + programs // 2) // programs
    return max(1, min(wanted, max_keys // MIN_SPLIT_KEYS, MAX_SPLITS))


def decode_attention(
    q: torch.Tensor,
    cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    *,
    num_sequences: int,
    scale: float,
    sliding_window: int | None,
    num_splits: int,
) -> None:
    """out[b] = attention of row b at position context_lens[b] - 1, for the first `num_sequences`.

    q [B or more, H, D], its last dimension contiguous; cache [num_blocks, block_size, 2, K, D] and
    out [B or more, H, D] contiguous; block_size a power of two; block_tables [B or more, P],
    context_lens [B or more] int32. A sequence without keys gets zeros.
    """
    num_heads, head_dim = q.shape[1:]
    num_kv_heads = cache.shape[3]
    group = num_heads // num_kv_heads
    block_d = padded_head_dim(head_dim)
    block_n = tile_keys(block_d, cache.element_size())
    window = NO_WINDOW if sliding_window is None else sliding_window
    is_split = num_splits > 1
    partials = lse = out
    if is_split:
        shape = (num_sequences, num_heads, num_splits)
        partials = torch.empty((*shape, head_dim), dtype=torch.float32, device=q.device)
        lse = torch.empty(shape, dtype=torch.float32, device=q.device)
    _decode_kernel[(num_kv_heads, num_splits, num_sequences)](
        q,
        q.stride(0),
        q.stride(1),
        cache,
        block_tables,
        block_tables.stride(0),
        context_lens,
        partials,
        lse,
        scale * LOG2_E,
        window,
        num_splits,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=cache.shape[1],
        BLOCK_G=max(triton.next_power_of_2(group), 16),
        BLOCK_D=block_d,
        BLOCK_N=block_n,
        IS_SPLIT=is_split,
        num_warps=4,
        num_stages=NUM_STAGES,
    )
    if is_split:
        _combine_kernel[(num_heads, num_sequences)](
            partials,
            lse,
            context_lens,
            out,
            window,
            num_splits,
            HEAD_DIM=head_dim,
            BLOCK_S=FEW_SPLITS if num_splits <= FEW_SPLITS else MAX_SPLITS,
            BLOCK_D=block_d,
            BLOCK_N=block_n,
            num_warps=4,
        )
