"""SGMV's second half on a GPU: a row's partial products, added up, times B^T, into the base output.

Programs, tiles and tables are as in sgmv_shrink.py, which computes the partial products.

Legend: T rows, M rows of a tile, O output columns, R ranks of a target, S splits.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from lorax_serve.kernels.triton.sgmv_shrink import MAX_TILE_PROGRAMS

# A tile of more rows is a matrix product. One of fewer would be mostly padding, and its result has
# to be laid out anew before it is added: 64 rows of 32 adapters take a third less time row by row.
SINGLE_ROWS = tl.constexpr(4)


@dataclass(frozen=True, slots=True)
class ExpandShape:
    block_n: int  # columns of one program
    num_warps: int = 4
    num_stages: int = 3
    max_tile_programs: int = MAX_TILE_PROGRAMS


@triton.jit(do_not_specialize=["num_tiles", "split_stride", "row_stride"])
def _expand_kernel(
    y_ptr,
    y_stride,
    slab_ptr,
    table_ptr,
    table_stride,
    tiles_ptr,
    num_tiles,
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
    slot = tl.load(tiles_ptr + tile * 3)
    block_ptr = blocks_ptr + tl.program_id(1) * 4
    target_column = tl.load(block_ptr)
    first_column = tl.load(block_ptr + 1)
    out_features = tl.load(block_ptr + 2)
    y_column = tl.load(block_ptr + 3)
    if ALIGNED:
        out_features = tl.multiple_of(out_features, 8)
        first_column = tl.multiple_of(first_column, 8)
        y_column = tl.multiple_of(y_column, 8)
    columns = tl.arange(0, BLOCK_N)
    in_target = columns < out_features - first_column
    while slot >= 0:
        entry = table_ptr + slot.to(tl.int64) * table_stride + target_column
        rank = tl.load(entry + 1).to(tl.int32)
        if rank > 0:
            first_row = tl.load(tiles_ptr + tile * 3 + 1).to(tl.int64)
            num_rows = tl.load(tiles_ptr + tile * 3 + 2)
            b_offset = tl.load(entry)
            if ALIGNED:
                b_offset = tl.multiple_of(b_offset, 8)
            first_rank = tl.load(entry + 2).to(tl.int32)
            _expand_tile(
                y_ptr + first_row * y_stride + y_column + columns,
                y_stride,
                slab_ptr + b_offset + first_column + columns,
                partials_ptr + first_row * row_stride + first_rank,
                in_target,
                num_rows,
                rank,
                out_features,
                split_stride,
                row_stride,
                NUM_SPLITS,
                SPLITS,
                TILE_ROWS,
                BLOCK_N,
                BLOCK_R,
            )
        tile += tl.num_programs(0)
        slot = tl.load(tiles_ptr + tile * 3, mask=tile < num_tiles, other=-1)


@triton.jit
def _expand_tile(
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
    SPLITS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    if TILE_ROWS <= SINGLE_ROWS or num_rows <= SINGLE_ROWS:
        _expand_single_rows(
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
def _expand_single_rows(
    y,
    y_stride,
    b_columns,
    in_row,
    in_target,
    num_rows,
    rank,
    out_features,
    split_stride,
    row_stride,
    NUM_SPLITS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Row after row, the first ranks of B in registers; what the next row needs is loaded early."""
    splits = tl.arange(0, SPLITS)
    ranks = tl.arange(0, BLOCK_R)
    in_partials = (splits < NUM_SPLITS)[:, None] & (ranks < rank)[None, :]
    partials_of = splits[:, None] * split_stride + ranks[None, :]
    b = _b_rows(b_columns, in_target, ranks, rank, out_features)
    base = tl.load(y, mask=in_target, other=0.0)
    partials = tl.load(in_row + partials_of, mask=in_partials, other=0.0)
    for row in range(num_rows):
        is_next = row + 1 < num_rows
        next_base = tl.load(y + y_stride, mask=in_target & is_next, other=0.0)
        next_partials = tl.load(
            in_row + row_stride + partials_of, mask=in_partials & is_next, other=0.0
        )
        added = _row_product(partials, b)
        for r in range(BLOCK_R, rank, BLOCK_R):
            more = (splits < NUM_SPLITS)[:, None] & (r + ranks < rank)[None, :]
            added += _row_product(
                tl.load(in_row + partials_of + r, mask=more, other=0.0),
                _b_rows(b_columns, in_target, r + ranks, rank, out_features),
            )
        tl.store(y, (base.to(tl.float32) + added).to(base.dtype), mask=in_target)
        base, partials = next_base, next_partials
        y += y_stride
        in_row += row_stride


@triton.jit
def _row_product(partials, b):
    """[N] float32: a row's partial products [S, R], added up, times [R, N] of B^T."""
    shrunk = tl.sum(partials, axis=0).to(b.dtype).to(tl.float32)
    return tl.sum(shrunk[:, None] * b.to(tl.float32), axis=0)


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
    num_tiles = tiles.shape[0]
    num_programs = min(num_tiles, shape.max_tile_programs)
    _expand_kernel[(num_programs, blocks.shape[0])](
        y,
        y.stride(0),
        slab,
        table,
        table.stride(0),
        tiles,
        num_tiles,
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
        num_stages=shape.num_stages,
    )
