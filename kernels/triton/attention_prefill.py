"""Attention of prompt chunks over the paged cache, on a GPU.

The query heads that share a key-value head are packed with the chunk's positions into the rows of
one tile, row = position * G + head: short chunks fill a tile, and the diagonal wastes little. A
tile reads only the keys that one of its rows sees; those that all see need no mask.

Reference: kernels/attention_reference.py. Online softmax: Dao, "FlashAttention-2" (2023).

Legend: T rows of the step, B sequences, H query heads, K key-value heads, G = H / K, D head size,
P blocks per table.
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from lorax_serve.kernels.triton.attention_decode import LOG2_E, NO_WINDOW
from lorax_serve.kernels.triton.paged_tiles import (
    NUM_STAGES,
    padded_head_dim,
    tile_keys,
    tile_slots,
)

MAX_TILE_KEYS = 64


@dataclass(frozen=True, slots=True)
class PrefillShape:
    """How the rows are divided; a kernel is compiled for each."""

    tile_rows: int
    num_warps: int
    num_stages: int

    def num_tiles(self, num_queries: int, group: int) -> int:
        return triton.cdiv(num_queries, self.tile_rows // group)


TALL = PrefillShape(tile_rows=128, num_warps=8, num_stages=NUM_STAGES)
SHORT = PrefillShape(tile_rows=64, num_warps=4, num_stages=NUM_STAGES)
# Exact float32 products do without tensor cores and need many registers.
FLOAT32 = PrefillShape(tile_rows=32, num_warps=8, num_stages=3)


@triton.jit
def _attend_tiles(
    acc,
    row_max,
    row_sum,
    q,
    positions,
    keys_ptr,
    table_ptr,
    begin,
    end,
    first_key,
    scale_log2,
    window,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    IS_MASKED: tl.constexpr,
):
    """Add keys begin .. end - 1 to the running softmax; begin is a multiple of BLOCK_N."""
    dims = tl.arange(0, BLOCK_D)
    for tile_key in range(begin, end, BLOCK_N):
        keys = tile_key + tl.arange(0, BLOCK_N)
        slots = tile_slots(table_ptr, tile_key, end, BLOCK_SIZE, BLOCK_N)
        pointers = keys_ptr + slots[:, None] * (2 * NUM_KV_HEADS * HEAD_DIM) + dims[None, :]
        if IS_MASKED:
            # What no row may see is never read: it may be NaN, and 0 * NaN is NaN.
            mask = ((keys >= first_key) & (keys < end))[:, None] & (dims < HEAD_DIM)[None, :]
            k = tl.load(pointers, mask=mask, other=0.0)
            v = tl.load(pointers + NUM_KV_HEADS * HEAD_DIM, mask=mask, other=0.0)
        elif HEAD_DIM < BLOCK_D:
            mask = (dims < HEAD_DIM)[None, :]
            k = tl.load(pointers, mask=mask, other=0.0)
            v = tl.load(pointers + NUM_KV_HEADS * HEAD_DIM, mask=mask, other=0.0)
        else:
            k = tl.load(pointers)
            v = tl.load(pointers + NUM_KV_HEADS * HEAD_DIM)
        scores = tl.dot(q, tl.trans(k), out_dtype=tl.float32, input_precision="ieee")
        if IS_MASKED:
            distance = positions[:, None] - keys[None, :]
            scores = tl.where((distance >= 0) & (distance < window), scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, axis=1) * scale_log2)
        subtrahend = new_max
        if IS_MASKED:
            # A row whose window starts beyond this tile has seen nothing yet.
            subtrahend = tl.where(new_max == float("-inf"), 0.0, new_max)
        shrunk = tl.exp2(row_max - subtrahend)
        weights = tl.exp2(scores * scale_log2 - subtrahend[:, None])
        row_sum = row_sum * shrunk + tl.sum(weights, axis=1)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrunk[:, None], input_precision="ieee")
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit(
    do_not_specialize=(
        "tables_ptr",
        "table_stride",
        "indptr_ptr",
        "context_lens_ptr",
        "window",
        "first_sequence",
    )
)
def _prefill_kernel(
    q_ptr,
    q_row_stride,
    q_head_stride,
    cache_ptr,
    tables_ptr,
    table_stride,
    indptr_ptr,
    context_lens_ptr,
    out_ptr,
    scale_log2,
    window,
    first_sequence,
    HAS_WINDOW: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    TILE_QUERIES: tl.constexpr = BLOCK_M // GROUP
    kv_head = tl.program_id(0)
    # The last tiles see most keys and start first.
    first_query = (tl.num_programs(1) - 1 - tl.program_id(1)) * TILE_QUERIES
    sequence = (first_sequence + tl.program_id(2)).to(tl.int64)
    first_row = tl.load(indptr_ptr + sequence)
    num_queries = tl.load(indptr_ptr + sequence + 1) - first_row
    if first_query >= num_queries:
        return
    context_len = tl.load(context_lens_ptr + sequence)

    packed = tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    queries = first_query + packed // GROUP
    heads = kv_head * GROUP + packed % GROUP
    is_row = (packed < TILE_QUERIES * GROUP) & (queries < num_queries)
    mask = is_row[:, None] & (dims < HEAD_DIM)[None, :]
    rows = first_row.to(tl.int64) + queries
    q = tl.load(
        q_ptr + rows[:, None] * q_row_stride + heads[:, None] * q_head_stride + dims[None, :],
        mask=mask,
        other=0.0,
    )
    positions = context_len - num_queries + queries
    first_position = context_len - num_queries + first_query
    end_key = tl.minimum(first_position + TILE_QUERIES, context_len)
    first_key = 0
    seen_by_all = (first_position + 1) // BLOCK_N * BLOCK_N
    if HAS_WINDOW:
        first_key = tl.maximum(first_position - window + 1, 0)
        seen_by_all = first_key // BLOCK_N * BLOCK_N

    keys_ptr = cache_ptr + kv_head * HEAD_DIM
    table_ptr = tables_ptr + sequence * table_stride
    row_max = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    if not HAS_WINDOW:
        acc, row_max, row_sum = _attend_tiles(
            acc,
            row_max,
            row_sum,
            q,
            positions,
            keys_ptr,
            table_ptr,
            0,
            seen_by_all,
            first_key,
            scale_log2,
            window,
            NUM_KV_HEADS,
            HEAD_DIM,
            BLOCK_SIZE,
            BLOCK_D,
            BLOCK_N,
            IS_MASKED=False,
        )
    acc, row_max, row_sum = _attend_tiles(
        acc,
        row_max,
        row_sum,
        q,
        positions,
        keys_ptr,
        table_ptr,
        seen_by_all,
        end_key,
        first_key,
        scale_log2,
        window,
        NUM_KV_HEADS,
        HEAD_DIM,
        BLOCK_SIZE,
        BLOCK_D,
        BLOCK_N,
        IS_MASKED=True,
    )
    out = acc / row_sum[:, None]
    tl.store(
        out_ptr + (rows * (NUM_KV_HEADS * GROUP) + heads)[:, None] * HEAD_DIM + dims[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=mask,
    )


def prefill_attention(
    q: torch.Tensor,
    cache: torch.Tensor,
    block_tables: torch.Tensor,
    query_indptr: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    *,
    first_sequence: int,
    max_query_len: int,
    scale: float,
    sliding_window: int | None,
    num_sms: int,
) -> None:
    """Attention of the sequences from `first_sequence` on; their rows of `out` are written.

    Sequence b has rows query_indptr[b]:query_indptr[b + 1], the last at position
    context_lens[b] - 1. q [T, H, D], its last dimension contiguous; cache [num_blocks, block_size,
    2, K, D] and out [T, H, D] contiguous; block_size a power of two; block_tables [B, P],
    query_indptr [B + 1] and context_lens [B] int32; G at most 128; scale positive.
    """
    num_heads, head_dim = q.shape[1:]
    num_kv_heads = cache.shape[3]
    num_sequences = context_lens.shape[0] - first_sequence
    group = num_heads // num_kv_heads
    block_d = padded_head_dim(head_dim)

    shape = _shape(q.dtype, group, max_query_len, num_sequences * num_kv_heads, num_sms)
    num_tiles = shape.num_tiles(max_query_len, group)
    _prefill_kernel[(num_kv_heads, num_tiles, num_sequences)](
        q,
        q.stride(0),
        q.stride(1),
        cache,
        block_tables,
        block_tables.stride(0),
        query_indptr,
        context_lens,
        out,
        scale * LOG2_E,
        NO_WINDOW if sliding_window is None else sliding_window,
        first_sequence,
        HAS_WINDOW=sliding_window is not None,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=cache.shape[1],
        BLOCK_M=shape.tile_rows,
        BLOCK_D=block_d,
        BLOCK_N=min(tile_keys(block_d, cache.element_size()), MAX_TILE_KEYS),
        num_warps=shape.num_warps,
        num_stages=shape.num_stages,
    )


def _shape(
    dtype: torch.dtype, group: int, max_query_len: int, num_columns: int, num_sms: int
) -> PrefillShape:
    """Tall tiles if they keep the device busy; tall enough for one position's heads in any case."""
    if dtype == torch.float32:
        shape = FLOAT32
    elif TALL.num_tiles(max_query_len, group) * num_columns < num_sms:
        shape = SHORT
    else:
        shape = TALL
    if group > shape.tile_rows:
        return replace(shape, tile_rows=triton.next_power_of_2(group))
    return shape
