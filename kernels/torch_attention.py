"""Attention in plain torch: the backend of CPUs, and the others' slow twin."""

from dataclasses import dataclass, field

import torch

from lorax_serve.kernels.attention_batch import AttentionBatch
from lorax_serve.kernels.attention_plan import AttentionPlan, plan_attention
from lorax_serve.kernels.paged_attention import paged_attention


@dataclass(frozen=True, slots=True)
class TorchAttention:
    """An AttentionBackend on any device."""

    def bind(self, batch: AttentionBatch, cache: torch.Tensor) -> "TorchStepAttention":
        return TorchStepAttention(batch)


@dataclass(frozen=True, slots=True)
class TorchStepAttention:
    """One step: a window is planned by the first layer that has it."""

    batch: AttentionBatch
    plans: dict[int | None, AttentionPlan] = field(default_factory=dict)

    def __call__(
        self, q: torch.Tensor, cache: torch.Tensor, *, scale: float, sliding_window: int | None
    ) -> torch.Tensor:
        if sliding_window not in self.plans:
            self.plans[sliding_window] = plan_attention(
                self.batch, cache, sliding_window=sliding_window
            )
        return paged_attention(q, cache, self.plans[sliding_window], scale=scale)
