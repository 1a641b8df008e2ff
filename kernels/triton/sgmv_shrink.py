"""SGMV's first half on a GPU: input rows times A^T of each row's adapter.

The input features are cut into splits of fixed size, one float32 partial product each, which the
second half adds up (sgmv_expand.py). Splits depend on the model's width alone, nothing is atomic: a
row's result does not depend on other adapters' rows, and on those of its own only in the last bits
of a float32 sum.

Rows that share an adapter are cut into tiles. A launch has a fixed number of programs for any mix
of adapters; each takes every so-manieth tile, up to the first that is padding (slot -1). A tile
whose adapter leaves the site alone costs a look at the table.

Tables, tiles and column blocks are those of kernels/lora_table.py. How matrices lie in the slab:
engine/adapters/slab.py.

Legend: T rows, M rows of a tile, I input features, R ranks of a site, S splits.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

MAX_TILE_PROGRAMS = 1 << 30  # a program for every tile


@dataclass(frozen=True, slots=True)
class ShrinkShape:
    """How shrink divides its work; a kernel is compiled for each."""

    tile_rows: int  # M, 16 or more
    split: int  # input features of one program
    block_k: int  # input features per product
    block_r: int  # ranks per product, 16 or more
    num_warps: int = 4
    num_stages: int = 3
    max_tile_programs: int = MAX_TILE_PROGRAMS

    def num_splits(self, in_features: int) -> int:
        return -(-in_features // self.split)


# Sites and batches differ in these: a variant for each would be compiled while requests wait.
@triton.jit(do_not_specialize=["site_column", "num_tiles", "split_stride", "row_stride"])
def _shrink_kernel(
    x_ptr,
    x_stride,
    slab_ptr,
    table_ptr,
    table_stride,
    site_column,
    tiles_ptr,
    num_tiles,
    partials_ptr,
    split_stride,
    row_stride,
    in_features,
    TILE_ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_R: tl.constexpr,
    ALIGNED: tl.constexpr,
    STAGES: tl.constexpr,
):
    tile = tl.program_id(0)
    split = tl.program_id(1)
    row_stride = tl.multiple_of(row_stride, 16)
    out_ptr = partials_ptr + split.to(tl.int64) * split_stride
    slot = tl.load(tiles_ptr + tile * 3)
    while slot >= 0:
        entry = table_ptr + slot.to(tl.int64) * table_stride + site_column
        num_ranks = tl.load(entry + 1).to(tl.int32)
        if num_ranks > 0:
            first_row = tl.load(tiles_ptr + tile * 3 + 1).to(tl.int64)
            num_rows = tl.load(tiles_ptr + tile * 3 + 2)
            a_offset = tl.load(entry)
            if ALIGNED:
                a_offset = tl.multiple_of(a_offset, 8)
            _shrink_tile(
                out_ptr + first_row * row_stride,
                row_stride,
                x_ptr + first_row * x_stride,
                x_stride,
                slab_ptr + a_offset,
                num_rows,
                num_ranks,
                split * SPLIT,
                in_features,
                TILE_ROWS,
                SPLIT,
                BLOCK_K,
                BLOCK_R,
                STAGES,
            )
        tile += tl.num_programs(0)
        slot = tl.load(tiles_ptr + tile * 3, mask=tile < num_tiles, other=-1)


@triton.jit
def _shrink_tile(
    out_ptr,
    row_stride,
    x_ptr,
    x_stride,
    a_ptr,
    num_rows,
    num_ranks,
    first_k,
    in_features,
    TILE_ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STAGES: tl.constexpr,
):
    rows = tl.arange(0, TILE_ROWS)
    in_tile = rows < num_rows
    x_rows = x_ptr + rows[:, None] * x_stride
    out_rows = out_ptr + rows[:, None] * row_stride
    if SPLIT == BLOCK_K:
        # The input stays in registers while the ranks stream by.
        ks = first_k + tl.arange(0, BLOCK_K)
        x = _inputs(x_rows, in_tile, ks, in_features)
        for first_rank in tl.range(0, num_ranks, BLOCK_R, num_stages=STAGES):
            ranks = first_rank + tl.arange(0, BLOCK_R)
            a = _a_columns(a_ptr, ranks, num_ranks, ks, in_features)
            product = tl.dot(x, a, out_dtype=tl.float32, input_precision="ieee")
            in_product = in_tile[:, None] & (ranks < num_ranks)[None, :]
            tl.store(out_rows + ranks[None, :], product, mask=in_product)
    else:
        for first_rank in range(0, num_ranks, BLOCK_R):
            ranks = first_rank + tl.arange(0, BLOCK_R)
            product = tl.zeros((TILE_ROWS, BLOCK_R), dtype=tl.float32)
            for k in tl.range(0, SPLIT, BLOCK_K, num_stages=STAGES):
                ks = first_k + k + tl.arange(0, BLOCK_K)
                x = _inputs(x_rows, in_tile, ks, in_features)
                a = _a_columns(a_ptr, ranks, num_ranks, ks, in_features)
                product = tl.dot(x, a, product, input_precision="ieee")
            in_product = in_tile[:, None] & (ranks < num_ranks)[None, :]
            tl.store(out_rows + ranks[None, :], product, mask=in_product)


@triton.jit
def _inputs(x_rows, in_tile, ks, in_features):
    """[M, K] of the tile's rows, zero beyond them."""
    mask = in_tile[:, None] & (ks < in_features)[None, :]
    return tl.load(x_rows + ks[None, :], mask=mask, other=0.0)


@triton.jit
def _a_columns(a_ptr, ranks, num_ranks, ks, in_features):
    """[K, R] of A^T, zero beyond its ranks."""
    mask = (ranks < num_ranks)[None, :] & (ks < in_features)[:, None]
    return tl.load(a_ptr + ranks[None, :] * in_features + ks[:, None], mask=mask, other=0.0)


def shrink(
    x: torch.Tensor,
    slab: torch.Tensor,
    table: torch.Tensor,
    tiles: torch.Tensor,
    partials: torch.Tensor,
    *,
    site_column: int,
    shape: ShrinkShape,
    aligned: bool,
) -> None:
    """partials[s, t, r] = x[t, split s] . A[r, split s] for every rank r of row t's adapter.

    x [T, I]; slab [elements] of x's dtype; table [slots, width] int64; tiles [N, 3] int32,
    padding last; partials [S or more, T or more, R or more] float32, its last size a multiple of
    16, untouched where nothing is computed.
    """
    in_features, num_tiles = x.shape[1], tiles.shape[0]
    num_programs = min(num_tiles, shape.max_tile_programs)
    _shrink_kernel[(num_programs, shape.num_splits(in_features))](
        x,
        x.stride(0),
        slab,
        table,
        table.stride(0),
        site_column,
        tiles,
        num_tiles,
        partials,
        partials.stride(0),
        partials.stride(1),
        in_features,
        TILE_ROWS=shape.tile_rows,
        SPLIT=shape.split,
        BLOCK_K=shape.block_k,
        BLOCK_R=shape.block_r,
        ALIGNED=aligned,
        STAGES=shape.num_stages,
        num_warps=shape.num_warps,
    )
