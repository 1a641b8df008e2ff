"""Where LoRA attaches to a model: sites, targets, and the segments of a step.

A *target* is one linear of the published model, under the name adapters use for it. A *site* is one
matmul of ours: targets that read the same input (q, k, v; gate, up) share a site, so their A
matrices are applied in one product.

Legend: T rows of a step, I site input features, O site output features, R rank.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

BASE_SLOT = -1  # the segment's rows use no adapter


@dataclass(frozen=True, slots=True)
class LoraTarget:
    """One adaptable linear: `y[:, out_start : out_start + out_features] += x A^T B^T`."""

    module: str  # "model.layers.0.self_attn.q_proj", as in an adapter's tensor names
    out_start: int  # first column of this target in the site's output
    out_features: int


@dataclass(frozen=True, slots=True)
class LoraSite:
    """One of our (possibly fused) linears, numbered over the whole model."""

    index: int
    in_features: int
    targets: tuple[LoraTarget, ...]


@dataclass(frozen=True, slots=True)
class Segments:
    """Consecutive rows sharing an adapter slot: rows indptr[i]:indptr[i+1] use slots[i].

    indptr[0] == 0, indptr[-1] == T, len(slots) == len(indptr) - 1; BASE_SLOT marks base rows.
    """

    indptr: tuple[int, ...]
    slots: tuple[int, ...]


class Shrunk(Protocol):
    """`x A^T` of one site's rows, waiting for the site's output."""

    def expand_into(self, y: torch.Tensor) -> None:
        """For each segment s: `y[s] += (x[s] @ A[s]^T) @ B[s]^T`, in place. y [T, O]."""


class LoraDelta(Protocol):
    """The LoRA part of one step, bound to its segments and to the adapters' device weights.

    In two halves, because the first needs only x: it may run beside the base product.
    """

    def shrink(self, x: torch.Tensor, site: LoraSite) -> Shrunk:
        """x [T, I]. The scale (alpha / r) is folded into B. Untargeted linears cost nothing."""
