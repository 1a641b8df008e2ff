"""LoraWeights: an adapter's validated content on the host."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lorax_serve.engine.adapters.label_head import HeadShape, LabelHead


@dataclass(frozen=True, slots=True)
class LoraMatrices:
    """One target's update of its linear: `scale * b @ a`. Finite, in the type of the file."""

    a: torch.Tensor  # [r, in]
    b: torch.Tensor  # [out, r]
    scale: float  # alpha / r, or alpha / sqrt(r); not yet folded into b

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """Every tensor of the adapter's file, by the module it updates."""

    name: str  # as users call it; for messages only
    digest: str  # sha256 hex of config, weights and loader version: the adapter's identity
    matrices: Mapping[str, LoraMatrices]
    unknown_config_fields: tuple[str, ...]  # set, not understood, and without effect on tensors
    head: LabelHead | None = None

    @property
    def head_shape(self) -> HeadShape | None:
        return None if self.head is None else self.head.shape

    @property
    def num_elements(self) -> int:
        """Numbers of all matrices together: what the adapter takes when packed."""
        of_head = 0 if self.head is None else self.head.shape.num_elements
        return of_head + sum(each.a.numel() + each.b.numel() for each in self.matrices.values())
