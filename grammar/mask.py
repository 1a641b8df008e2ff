"""Grammar masks on logits. Legend: N rows, V vocabulary, G constrained rows, W = ceil(V / 32)."""

import torch
from torch import Tensor

from lorax_serve.grammar.token_sets import num_words


def allocate_bitmask(num_rows: int, vocab_size: int) -> Tensor:
    """[num_rows, ceil(vocab_size / 32)] int32 on the CPU, all zero: nothing allowed."""
    return torch.zeros(num_rows, num_words(vocab_size), dtype=torch.int32)


def apply_mask(logits: Tensor, bitmask: Tensor, rows: Tensor) -> None:
    """logits[rows[g], v] = -inf wherever bit v of bitmask[g] is clear; other rows are untouched.

    logits: [N, V] float32, changed in place; bitmask: [G, W] int32, bit i of word w for token
    32 w + i; rows: [G] int64, distinct, each below N; all on one device. Raises ValueError for
    other shapes, types or devices. Row numbers are not checked on a GPU, where that would wait.
    """
    _check(logits, bitmask, rows)
    num_rows = rows.shape[0]
    if num_rows == 0:
        return
    # Bytes rather than words keep the unpacked bits small; little-endian, so byte order is bit
    # order on every platform that torch runs on.
    shifts = torch.arange(8, dtype=torch.uint8, device=bitmask.device)
    octets = bitmask.reshape(-1).view(torch.uint8).view(num_rows, -1, 1)  # [G, 4 W, 1]
    bits = (octets >> shifts & 1).flatten(1)  # [G, 32 W]
    forbidden = bits[:, : logits.shape[1]] == 0
    masked = logits.index_select(0, rows).masked_fill_(forbidden, -torch.inf)
    logits.index_copy_(0, rows, masked)


def _check(logits: Tensor, bitmask: Tensor, rows: Tensor) -> None:
    if logits.dtype != torch.float32 or logits.dim() != 2:
        raise ValueError(f"expected logits [N, V] float32, got {_describe(logits)}")
    words = num_words(logits.shape[1])
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise ValueError(f"expected rows [G] int64, got {_describe(rows)}")
    if bitmask.dtype != torch.int32 or bitmask.shape != (rows.shape[0], words):
        raise ValueError(
            f"expected bitmask [{rows.shape[0]}, {words}] int32, got {_describe(bitmask)}"
        )
    if not logits.device == bitmask.device == rows.device:
        raise ValueError(
            f"expected one device, got {logits.device}, {bitmask.device} and {rows.device}"
        )


def _describe(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
