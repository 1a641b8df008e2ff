"""The element-wise parts of a decoder layer, on one device.

Legend: T rows of a step, E features, N heads, H query heads, K key-value heads, D head size, I
intermediate features.
"""

from typing import Protocol

import torch

from lorax_serve.kernels.rope import Rotation


class DecoderKernels(Protocol):
    """`eps` of the norms is the implementation's own: it is one number per model."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """See norm.rms_norm. x [T, E]; returns a new tensor."""

    def rms_norm_heads_(self, heads: torch.Tensor, weight: torch.Tensor) -> None:
        """Normalise every head of heads [T, N, D] in place; rows may be strided. weight [D]."""

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """`residual += x` in place, then the norm of the sum. x, residual [T, E]."""

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See activation.silu_mul. gate_up [T, 2I]; returns a new tensor [T, I]."""

    def rope_and_write_kv(
        self,
        qkv: torch.Tensor,
        rotation: Rotation,
        cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Turn queries and keys in place, and write keys and values to the cache.

        qkv [T, H + 2K, D] contiguous: H heads of queries, K of keys, K of values; cache
        [num_blocks, block_size, 2, K, D]; slot_mapping [T]: row t goes to that slot of the cache,
        blocks flattened. A row whose slot is -1 is padding and is not written.
        """
