"""The tensors that hold keys and values. Which sequence owns which block is not known here."""

import torch

from lorax_serve.engine.models.config import ModelConfig


class KVCache:
    """One paged cache per layer: [num_blocks, block_size, 2, num_kv_heads, head_dim], zeroed.

    Index 0 of the third dimension holds keys, index 1 values; see kernels/paged_attention.py.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_blocks, block_size, 2, config.num_kv_heads, config.head_dim)
        # Zeros, so that no block ever holds the NaN that freed memory may.
        self.layers = tuple(
            torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)
        )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.device = device


def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """What one block costs over all layers, in bytes."""
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize
    return block_size * per_token
