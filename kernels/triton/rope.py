"""Rotary position embedding and the write to the paged cache, in one pass over a step's heads.

The twin of kernels/rope.py and paged_attention.write_kv: the turn is in float32, rounded once, and
the cache holds the same bits as the turned keys. See there for the formula and the layouts.

Legend: T rows of a step, H query heads, K key-value heads, N = H + 2K, D head size.
"""

import torch
import triton
import triton.language as tl

from lorax_serve.kernels.rope import Rotation

# Feature pairs one program turns. With four warps a thread loads 16 bytes of each half of a head.
PAIRS_PER_PROGRAM = 1024


def rope_and_write_kv(
    qkv: torch.Tensor, rotation: Rotation, cache: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    """Turn queries and keys in place, and write keys and values to the cache.

    qkv [T, N, D] contiguous, D even; cache [num_blocks, block_size, 2, K, D] contiguous;
    slot_mapping [T] int64 or int32, -1 where the row is not to be written.
    """
    num_rows, num_heads, head_dim = qkv.shape
    block_pairs = triton.next_power_of_2(head_dim // 2)
    block_heads = max(1, PAIRS_PER_PROGRAM // block_pairs)
    _rope_and_write_kv_kernel[(num_rows, triton.cdiv(num_heads, block_heads))](
        qkv,
        rotation.cos,
        rotation.signed_sin,
        cache,
        slot_mapping,
        num_heads,
        cache.shape[3],
        head_dim,
        block_heads,
        block_pairs,
    )


# Where the slots begin in memory matters to no load, and must not cost a second compilation.
@triton.jit(do_not_specialize_on_alignment=["slot_mapping_ptr"])
def _rope_and_write_kv_kernel(
    qkv_ptr,
    cos_ptr,
    signed_sin_ptr,
    cache_ptr,
    slot_mapping_ptr,
    num_heads: tl.constexpr,  # N
    num_kv_heads: tl.constexpr,  # K
    head_dim: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
):
    half: tl.constexpr = head_dim // 2
    first_value: tl.constexpr = num_heads - num_kv_heads
    first_key: tl.constexpr = first_value - num_kv_heads
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + row).to(tl.int64)  # before any store, not to wait for it then
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)[:, None]
    pairs = tl.arange(0, BLOCK_PAIRS)[None, :]
    mask = (heads < num_heads) & (pairs < half)
    pointers = qkv_ptr + row * (num_heads * head_dim) + heads * head_dim + pairs
    x = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    partner = tl.load(pointers + half, mask=mask, other=0.0).to(tl.float32)

    # Both halves of a row of cos are equal; signed_sin's second half has the sine's own sign.
    angles = row * head_dim + half + pairs
    cos = tl.load(cos_ptr + angles, mask=pairs < half, other=0.0)
    sin = tl.load(signed_sin_ptr + angles, mask=pairs < half, other=0.0)
    is_turned = heads < first_value
    dtype: tl.constexpr = qkv_ptr.dtype.element_ty
    y = tl.where(is_turned, x * cos - partner * sin, x).to(dtype)
    y_partner = tl.where(is_turned, partner * cos + x * sin, partner).to(dtype)
    tl.store(pointers, y, mask=mask & is_turned)
    tl.store(pointers + half, y_partner, mask=mask & is_turned)

    is_written = mask & (heads >= first_key) & (slot >= 0)
    in_cache = slot * (2 * num_kv_heads * head_dim) + (heads - first_key) * head_dim + pairs
    tl.store(cache_ptr + in_cache, y, mask=is_written)
    tl.store(cache_ptr + in_cache + half, y_partner, mask=is_written)
