"""Segmented gather matrix-vector products: the LoRA part of one site, for rows of many adapters.

For every segment s, rows indptr[s]:indptr[s+1] of a step, and every target t its adapter has here:

    y[s, columns(t)] += (x[s] @ A_cat^T)[:, ranks(t)] @ B_t^T

A_cat [R, I] stacks the A matrices of the site's targets, so one product shrinks for all of them.
The scale is folded into B. A segment without adapter, or whose adapter leaves the site alone, costs
nothing. Punica, https://arxiv.org/abs/2310.18547, calls the two products shrink and expand.

Legend: T rows of a step, I site input features, O site output features, R sum of a site's ranks,
r rank and out output features of one target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorax_serve.kernels.lora import LoraSite, Segments


@dataclass(frozen=True, slots=True)
class TargetWeights:
    """One target's B^T, and where its ranks and columns lie in the site's."""

    b_t: torch.Tensor  # [r, out]
    ranks: slice  # of A_cat's R rows
    columns: slice  # of the site's O columns


@dataclass(frozen=True, slots=True)
class SiteWeights:
    """One adapter's matrices at one site."""

    a_t: torch.Tensor  # [I, R], a view
    targets: tuple[TargetWeights, ...]


@dataclass(frozen=True, slots=True)
class SegmentsDelta:
    """A LoraDelta in plain torch: one product per segment, and one per target."""

    segments: Segments
    sites: tuple[Sequence[SiteWeights | None], ...]  # [segment][site index]

    def shrink(self, x: torch.Tensor, site: LoraSite) -> "ShrunkSegments":
        return shrink_segments(x, self.segments, [sites[site.index] for sites in self.sites])


@dataclass(frozen=True, slots=True)
class ShrunkSegments:
    """What every segment that has an adapter at the site adds, in the dtype of the weights."""

    products: tuple[tuple[slice, torch.Tensor, SiteWeights], ...]  # rows, x A_cat^T [rows, R]

    def expand_into(self, y: torch.Tensor) -> None:
        """y [T, O] of the weights' dtype."""
        for rows, shrunk, site in self.products:
            segment = y[rows]
            for target in site.targets:
                segment[:, target.columns].addmm_(shrunk[:, target.ranks], target.b_t)


def shrink_segments(
    x: torch.Tensor, segments: Segments, weights: Sequence[SiteWeights | None]
) -> ShrunkSegments:
    """x [T, I] of the weights' dtype; `weights` has one entry per segment, None adds nothing."""
    products = []
    for index, site in enumerate(weights):
        if site is not None:
            rows = slice(segments.indptr[index], segments.indptr[index + 1])
            products.append((rows, torch.mm(x[rows], site.a_t), site))
    return ShrunkSegments(tuple(products))
