"""What the decoder asks of attention, whoever computes it.

Legend: T rows of a step, H query heads, K key-value heads, D head size.
"""

from typing import Protocol

import torch

from lorax_serve.kernels.attention_batch import AttentionBatch


class StepAttention(Protocol):
    """Attention bound to one step's rows; called once per layer."""

    def __call__(
        self, q: torch.Tensor, cache: torch.Tensor, *, scale: float, sliding_window: int | None
    ) -> torch.Tensor:
        """`softmax(scale * q k^T + mask) v` over each row's visible keys, softmax in float32.

        q [T, H, D], its last dimension contiguous; cache [num_blocks, block_size, 2, K, D] holds
        keys at index 0 of its third dimension, values at 1; returns a new tensor [T, H, D]. The
        row at position p sees positions j <= p, and only j > p - sliding_window when there is a
        window.
        """


class AttentionBackend(Protocol):
    """One way to compute attention over the paged cache."""

    def bind(self, batch: AttentionBatch, cache: torch.Tensor) -> StepAttention:
        """Prepare one step. `cache` is any layer's: it gives sizes and dtype only."""
