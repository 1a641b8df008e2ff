"""Writing keys and values to the paged cache, and attending to them. Plain torch.

A layer's cache is [num_blocks, block_size, 2, K, D], keys at index 0 of the third dimension and
values at 1: what one token writes, and what one token's copy reads, is one run of memory. Its
halves `cache[:, :, 0]` and `cache[:, :, 1]` have the shape of flash-attention's paged layout.

Legend: T rows, H query heads, K key-value heads, G = H / K, D head size; see attention_plan.py for
S, Q and L.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from lorax_serve.kernels.attention_plan import AttentionGroup, AttentionPlan


def write_kv(kv: torch.Tensor, cache: torch.Tensor, slot_mapping: torch.Tensor) -> None:
    """`cache[slot_mapping[t]] = kv[t]` in place, blocks flattened.

    kv [T, 2, K, D]; slot_mapping [T] int64, no slot twice.
    """
    cache.view(-1, *cache.shape[2:])[slot_mapping] = kv


def paged_attention(
    q: torch.Tensor, cache: torch.Tensor, plan: AttentionPlan, *, scale: float
) -> torch.Tensor:
    """`softmax(scale * q k^T + mask) v` over each row's visible keys, as planned.

    q [T, H, D]; returns [T, H, D]. The softmax is in float32. Equal to
    attention_reference.paged_attention_reference.
    """
    if len(plan.groups) == 1:
        return _attend(q, cache, plan.scratch, plan.groups[0], scale)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for group in plan.groups:
        out[group.rows] = _attend(q[group.rows], cache, plan.scratch, group, scale)
    return out


def _attend(
    q: torch.Tensor,
    cache: torch.Tensor,
    scratch: torch.Tensor,
    group: AttentionGroup,
    scale: float,
) -> torch.Tensor:
    """q [S * Q, H, D], the group's rows."""
    slots = cache.view(-1, *cache.shape[2:])
    scratch = scratch[: group.key_slots.shape[0]]
    kv = torch.index_select(slots, 0, group.key_slots, out=scratch)
    attend = _attend_prompt if group.is_prompt else _attend_decodes
    return attend(q, kv, group, scale)


def _attend_decodes(
    q: torch.Tensor, kv: torch.Tensor, group: AttentionGroup, scale: float
) -> torch.Tensor:
    """q [S, H, D]. The G heads that share keys are the rows of one product."""
    num_sequences, num_heads, head_dim = q.shape
    num_kv_heads = kv.shape[2]
    # [S * L, 2, K, D] -> 2 x [S, K, L, D], without a copy.
    by_head = kv.view(num_sequences, group.num_keys, 2, num_kv_heads, head_dim)
    keys, values = by_head.permute(2, 0, 3, 1, 4).unbind(0)
    out = scaled_dot_product_attention(
        q.view(num_sequences, num_kv_heads, num_heads // num_kv_heads, head_dim),
        keys,
        values,
        attn_mask=group.mask,
        scale=scale,
    )
    return out.reshape(q.shape)


def _attend_prompt(
    q: torch.Tensor, kv: torch.Tensor, group: AttentionGroup, scale: float
) -> torch.Tensor:
    """q [Q, H, D]. Key-value heads are the batch; their G query heads read them unrepeated."""
    num_queries, num_heads, head_dim = q.shape
    num_kv_heads = kv.shape[2]
    num_groups = num_heads // num_kv_heads
    # [L, 2, K, D] -> 2 x [K, G, L, D], G by stride 0.
    by_head = kv.permute(1, 2, 0, 3).unsqueeze(2).expand(-1, -1, num_groups, -1, -1)
    keys, values = by_head.unbind(0)
    out = scaled_dot_product_attention(
        q.view(num_queries, num_kv_heads, num_groups, head_dim).permute(1, 2, 0, 3),
        keys,
        values,
        attn_mask=group.mask,
        is_causal=group.is_causal,
        scale=scale,
    )
    return out.permute(2, 0, 1, 3).reshape(q.shape)
