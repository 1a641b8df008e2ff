"""Paged attention from its definition, one sequence at a time: the oracle of every fast path.

Legend: T rows, H query heads, K key-value heads, D head size, L keys of one sequence.
"""

import torch

from lorax_serve.kernels.attention_batch import AttentionBatch


def paged_attention_reference(
    q: torch.Tensor,
    cache: torch.Tensor,
    batch: AttentionBatch,
    *,
    scale: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """`softmax(scale * q k^T + mask) v` over each row's visible keys, in float32.

    q [T, H, D]; cache [num_blocks, block_size, 2, K, D] holds keys at index 0 of its third
    dimension, values at 1; returns [T, H, D]. The row at position p sees the keys at positions
    j <= p, and only j > p - sliding_window when there is a window.
    """
    indptr = batch.query_indptr.tolist()
    out = torch.empty_like(q)
    for b, context_len in enumerate(batch.context_lens.tolist()):
        rows = slice(indptr[b], indptr[b + 1])
        keys, values = _keys_and_values(cache, batch.block_tables[b], context_len, q.shape[1])
        num_queries = rows.stop - rows.start
        positions = torch.arange(context_len, device=q.device)
        query_positions = positions[context_len - num_queries :].unsqueeze(1)
        visible = positions <= query_positions
        if sliding_window is not None:
            visible &= positions > query_positions - sliding_window
        scores = torch.einsum("thd,lhd->htl", q[rows].float(), keys) * scale
        weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
        out[rows] = torch.einsum("htl,lhd->thd", weights, values).to(q.dtype)
    return out


def _keys_and_values(
    cache: torch.Tensor, block_table: torch.Tensor, context_len: int, num_heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both [L, H, D] float32, each key-value head repeated for its query heads."""
    blocks = cache[block_table.long()].float()
    tokens = blocks.flatten(0, 1)[:context_len]
    repeated = tokens.repeat_interleave(num_heads // cache.shape[3], dim=2)
    return repeated[:, 0], repeated[:, 1]
