"""Step -> tensors. Pure: the same step gives the same tensors, and nothing is kept."""

from dataclasses import dataclass

import torch

from lorax_serve.kernels.attention_batch import AttentionBatch


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The tensors of a step, on the model's device. Legend: T rows, N sampled rows."""

    input_ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64
    attention: AttentionBatch
    sampled_rows: torch.Tensor  # [N] int64: rows whose logits are wanted
