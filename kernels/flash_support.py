"""What flash-attention can compute, known without importing it."""

import torch

BLOCK_MULTIPLE = 256  # tokens: flash-attention 2 reads pages of a multiple of this
HEAD_DIMS = (64, 128)
DTYPES = (torch.float16, torch.bfloat16)


def supports(dtype: torch.dtype, head_dim: int, block_size: int) -> str | None:
    """Why FlashAttention cannot serve such a cache; None when it can."""
    if dtype not in DTYPES:
        return f"flash-attention computes in float16 and bfloat16, not {dtype}"
    if head_dim not in HEAD_DIMS:
        return f"flash-attention is built for head sizes {HEAD_DIMS}, not {head_dim}"
    if block_size % BLOCK_MULTIPLE:
        return f"flash-attention needs blocks of a multiple of {BLOCK_MULTIPLE}, not {block_size}"
    return None
