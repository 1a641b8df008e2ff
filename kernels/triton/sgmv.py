"""Segmented gather matrix-vector products on a GPU: adapters at their true ranks, addressed through
a table, rows of any mix of adapters in one launch.

Two kernels a site. *Shrink* cuts the input features into splits of fixed size and writes one
float32 partial product per split; *expand* adds the partials up and multiplies by B^T into the base
output. Splits depend on the model's width alone, nothing is atomic: a row's result does not depend
on other adapters' rows, and on those of its own only in the last bits of a float32 sum. Tiles of
rows that share an adapter are the first grid dimension; a tile without adapter, or whose adapter
leaves the site alone, ends at once.

Tables, tiles and column blocks are those of kernels/lora_table.py; a tile of slot -1 is padding.
How matrices lie in the slab: engine/adapters/slab.py.

Legend: T rows, M rows of a tile, I input features, R ranks of a site, S splits, out features.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True, slots=True)
class ShrinkShape:
    """How shrink divides its work; a kernel is compiled for each."""

    tile_rows: int  # M, 16 or more
    split: int  # input features of one program
    block_k: int  # input features per product
    block_r: int  # ranks per product, 16 or more
    num_warps: int = 4
    num_stages: int = 3

    def num_splits(self, in_features: int) -> int:
        return -(-in_features // self.split)


@dataclass(frozen=True, slots=True)
class ExpandShape:
    block_n: int  # columns of one program
    num_warps: int = 4


# Sites and batches differ in these: a variant for each would be compiled while requests wait.
@triton.jit(do_not_specialize=["site_column", "split_stride", "row_stride"])
def _shrink_kernel(
    x_ptr,
    x_stride,
    slab_ptr,
    table_ptr,
    table_stride,
    site_column,
    tiles_ptr,
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
    slot = tl.load(tiles_ptr + tile * 3)
    if slot < 0:
        return
    first_row = tl.load(tiles_ptr + tile * 3 + 1).to(tl.int64)
    num_rows = tl.load(tiles_ptr + tile * 3 + 2)
    entry = table_ptr + slot.to(tl.int64) * table_stride + site_column
    num_ranks = tl.load(entry + 1).to(tl.int32)
    if num_ranks == 0:
        return
    a_offset = tl.load(entry)
    if ALIGNED:
        a_offset = tl.multiple_of(a_offset, 8)

    row_stride = tl.multiple_of(row_stride, 16)
    rows = tl.arange(0, TILE_ROWS)
    in_tile = rows < num_rows
    x_rows = x_ptr + (first_row + rows)[:, None] * x_stride
    out_rows = partials_ptr + split.to(tl.int64) * split_stride + (first_row + rows) * row_stride
    first_k = split * SPLIT
    if SPLIT == BLOCK_K:
        # The input stays in registers while the ranks stream by.
        ks = first_k + tl.arange(0, BLOCK_K)
        x = _inputs(x_rows, in_tile, ks, in_features)
        for first_rank in tl.range(0, num_ranks, BLOCK_R, num_stages=STAGES):
            ranks = first_rank + tl.arange(0, BLOCK_R)
            a = _a_columns(slab_ptr + a_offset, ranks, num_ranks, ks, in_features)
            product = tl.dot(x, a, out_dtype=tl.float32, input_precision="ieee")
            in_product = in_tile[:, None] & (ranks < num_ranks)[None, :]
            tl.store(out_rows[:, None] + ranks[None, :], product, mask=in_product)
    else:
        for first_rank in range(0, num_ranks, BLOCK_R):
            ranks = first_rank + tl.arange(0, BLOCK_R)
            product = tl.zeros((TILE_ROWS, BLOCK_R), dtype=tl.float32)
            for k in tl.range(0, SPLIT, BLOCK_K, num_stages=STAGES):
                ks = first_k + k + tl.arange(0, BLOCK_K)
                x = _inputs(x_rows, in_tile, ks, in_features)
                a = _a_columns(slab_ptr + a_offset, ranks, num_ranks, ks, in_features)
                product = tl.dot(x, a, product, input_precision="ieee")
            in_product = in_tile[:, None] & (ranks < num_ranks)[None, :]
            tl.store(out_rows[:, None] + ranks[None, :], product, mask=in_product)


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


@triton.jit(do_not_specialize=["split_stride", "row_stride"])
def _expand_kernel(
    y_ptr,
    y_stride,
    slab_ptr,
    table_ptr,
    table_stride,
    tiles_ptr,
    blocks_ptr,
    partials_ptr,
    split_stride,
    row_stride,
    NUM_SPLITS: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    tile = tl.program_id(0)
    block = tl.program_id(1)
    slot = tl.load(tiles_ptr + tile * 3)
    if slot < 0:
        return
    first_row = tl.load(tiles_ptr + tile * 3 + 1).to(tl.int64)
    num_rows = tl.load(tiles_ptr + tile * 3 + 2)
    target_column = tl.load(blocks_ptr + block * 4)
    first_column = tl.load(blocks_ptr + block * 4 + 1)
    out_features = tl.load(blocks_ptr + block * 4 + 2)
    y_column = tl.load(blocks_ptr + block * 4 + 3)
    entry = table_ptr + slot.to(tl.int64) * table_stride + target_column
    rank = tl.load(entry + 1).to(tl.int32)
    if rank == 0:
        return
    b_offset = tl.load(entry)
    first_rank = tl.load(entry + 2).to(tl.int32)
    if ALIGNED:
        b_offset = tl.multiple_of(b_offset, 8)
        out_features = tl.multiple_of(out_features, 8)
        first_column = tl.multiple_of(first_column, 8)
        y_column = tl.multiple_of(y_column, 8)

    columns = tl.arange(0, BLOCK_N)
    in_target = columns < out_features - first_column
    b_columns = slab_ptr + b_offset + first_column + columns
    in_rows = partials_ptr + first_row * row_stride + first_rank
    y_columns = y_ptr + first_row * y_stride + y_column + columns
    if num_rows == 1:
        # As a matrix product this would be fifteen sixteenths padding, and short of registers.
        _expand_row(
            y_columns,
            b_columns,
            in_rows,
            in_target,
            rank,
            out_features,
            split_stride,
            NUM_SPLITS,
            SPLITS,
            BLOCK_N,
            BLOCK_R,
        )
    else:
        _expand_rows(
            y_columns,
            y_stride,
            b_columns,
            in_rows,
            in_target,
            num_rows,
            rank,
            out_features,
            split_stride,
            row_stride,
            NUM_SPLITS,
            TILE_ROWS,
            BLOCK_N,
            BLOCK_R,
        )


@triton.jit
def _expand_row(
    y,
    b_columns,
    in_row,
    in_target,
    rank,
    out_features,
    split_stride,
    NUM_SPLITS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    splits = tl.arange(0, SPLITS)
    base = tl.load(y, mask=in_target, other=0.0)
    added = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for r in range(0, rank, BLOCK_R):
        ranks = r + tl.arange(0, BLOCK_R)
        b = _b_rows(b_columns, in_target, ranks, rank, out_features)
        partials = tl.load(
            in_row + splits[:, None] * split_stride + ranks[None, :],
            mask=(splits < NUM_SPLITS)[:, None] & (ranks < rank)[None, :],
            other=0.0,
        )
        shrunk = tl.sum(partials, axis=0).to(b.dtype).to(tl.float32)
        added += tl.sum(shrunk[:, None] * b.to(tl.float32), axis=0)
    tl.store(y, (base.to(tl.float32) + added).to(base.dtype), mask=in_target)


@triton.jit
def _expand_rows(
    y_columns,
    y_stride,
    b_columns,
    in_rows,
    in_target,
    num_rows,
    rank,
    out_features,
    split_stride,
    row_stride,
    NUM_SPLITS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    rows = tl.arange(0, TILE_ROWS)
    in_tile = rows < num_rows
    y = y_columns[None, :] + rows[:, None] * y_stride
    in_y = in_tile[:, None] & in_target[None, :]
    total = tl.zeros((TILE_ROWS, BLOCK_N), dtype=tl.float32)
    for r in range(0, rank, BLOCK_R):
        ranks = r + tl.arange(0, BLOCK_R)
        b = _b_rows(b_columns, in_target, ranks, rank, out_features)
        shrunk = tl.zeros((TILE_ROWS, BLOCK_R), dtype=tl.float32)
        for split in tl.static_range(NUM_SPLITS):
            shrunk += tl.load(
                in_rows + rows[:, None] * row_stride + ranks[None, :] + split * split_stride,
                mask=in_tile[:, None] & (ranks < rank)[None, :],
                other=0.0,
            )
        total = tl.dot(shrunk.to(b.dtype), b, total, input_precision="ieee")
    base = tl.load(y, mask=in_y, other=0.0)
    tl.store(y, (base.to(tl.float32) + total).to(base.dtype), mask=in_y)


@triton.jit
def _b_rows(b_columns, in_target, ranks, rank, out_features):
    """[R, N] of B^T, zero beyond its ranks and columns."""
    mask = (ranks < rank)[:, None] & in_target[None, :]
    return tl.load(b_columns[None, :] + ranks[:, None] * out_features, mask=mask, other=0.0)


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

    x [T, I]; slab [elements] of x's dtype; table [slots, width] int64; tiles [N, 3] int32;
    partials [S or more, T or more, R or more] float32, its last size a multiple of 16, untouched
    where nothing is computed.
    """
    in_features = x.shape[1]
    _shrink_kernel[(tiles.shape[0], shape.num_splits(in_features))](
        x,
        x.stride(0),
        slab,
        table,
        table.stride(0),
        site_column,
        tiles,
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


def expand(
    y: torch.Tensor,
    slab: torch.Tensor,
    table: torch.Tensor,
    tiles: torch.Tensor,
    blocks: torch.Tensor,
    partials: torch.Tensor,
    *,
    num_splits: int,
    tile_rows: int,
    shape: ExpandShape,
    aligned: bool,
) -> None:
    """y[t] += (sum over s of partials[s, t]) B^T of row t's adapter, target by target, in place.

    y [T, O], its rows contiguous; blocks [N, 4] int32 from `column_blocks`.
    """
    _expand_kernel[(tiles.shape[0], blocks.shape[0])](
        y,
        y.stride(0),
        slab,
        table,
        table.stride(0),
        tiles,
        blocks,
        partials,
        partials.stride(0),
        partials.stride(1),
        NUM_SPLITS=num_splits,
        SPLITS=triton.next_power_of_2(num_splits),
        TILE_ROWS=tile_rows,
        BLOCK_N=shape.block_n,
        BLOCK_R=16,
        ALIGNED=aligned,
        num_warps=shape.num_warps,
    )
