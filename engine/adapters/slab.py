"""How an adapter lies in memory: one contiguous slab at its true ranks.

Per site, in order: A_cat [R, in], the A matrices of its targeted targets stacked so that one
product serves them all; then each target's B^T [r, out], with the scale folded in. Rows are as long
as the model is wide, so they stay aligned at any rank.

    site 0: A_q A_k A_v | B_q^T | B_k^T | B_v^T    site 1: A_o | B_o^T    …

Legend: sites are numbered over the whole model, and so are targets, sites in order, each site's
targets in order. r is a target's rank, R the sum of a site's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from lorax_serve.engine.adapters.finite import all_finite
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.kernels.lora import LoraSite
from lorax_serve.kernels.sgmv import SiteWeights, TargetWeights

UNTARGETED = -1


@dataclass(frozen=True, slots=True)
class SlabLayout:
    """Where matrices start in the slab, in elements; UNTARGETED where there are none."""

    a_offsets: tuple[int, ...]  # of each site's A_cat
    b_offsets: tuple[int, ...]  # of each target's B^T
    ranks: tuple[int, ...]  # of each target; 0 where untargeted
    num_elements: int
    # A_cat is [in, R] in memory, though [R, in] to the eye: CPU products of ten rows and more are
    # several times as fast this way. Kernels want the rows, which are aligned at any rank.
    transposed_a: bool


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """An adapter ready to be copied to the device as it is."""

    digest: str
    layout: SlabLayout
    slab: torch.Tensor  # [num_elements], of the pool's dtype, on the host

    @property
    def num_bytes(self) -> int:
        return self.slab.nbytes


def plan_slab(
    sites: Sequence[LoraSite], ranks: Mapping[str, int], *, transposed_a: bool
) -> SlabLayout:
    """Lay out matrices of the given ranks by module; modules that are not named are untargeted."""
    a_offsets, b_offsets, all_ranks = [], [], []
    end = 0
    for site in sites:
        site_ranks = [ranks.get(target.module, 0) for target in site.targets]
        a_offsets.append(end if any(site_ranks) else UNTARGETED)
        end += sum(site_ranks) * site.in_features
        for target, rank in zip(site.targets, site_ranks, strict=True):
            b_offsets.append(end if rank else UNTARGETED)
            end += rank * target.out_features
        all_ranks += site_ranks
    return SlabLayout(tuple(a_offsets), tuple(b_offsets), tuple(all_ranks), end, transposed_a)


def layout_of(weights: LoraWeights, sites: Sequence[LoraSite], *, transposed_a: bool) -> SlabLayout:
    """How an adapter will lie in its slab."""
    ranks = {module: each.rank for module, each in weights.matrices.items()}
    return plan_slab(sites, ranks, transposed_a=transposed_a)


def fill_slab(
    slab: torch.Tensor, weights: LoraWeights, sites: Sequence[LoraSite], layout: SlabLayout
) -> None:
    """Fold the scale into B in float32, cast, and write everything to its place in the slab.

    Raises AdapterRejected when a value overflows the slab's type.
    """
    for module, a, b_t in slab_matrices(slab, sites, layout):
        matrices = weights.matrices[module]
        a.copy_(matrices.a)
        b_t.copy_(matrices.b.t().float() * matrices.scale)
    if not all_finite(slab):
        raise AdapterRejected(
            weights.name, ErrorCode.ADAPTER_INCOMPATIBLE, _overflows(slab, sites, layout)
        )


def slab_matrices(
    slab: torch.Tensor, sites: Sequence[LoraSite], layout: SlabLayout
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Each targeted module with views of its A [r, in] and its scaled B^T [r, out]."""
    for site, weights in zip(sites, slab_sites(slab, sites, layout), strict=True):
        if weights is None:
            continue
        modules = {target.out_start: target.module for target in site.targets}
        for target in weights.targets:
            yield modules[target.columns.start], weights.a_t[:, target.ranks].t(), target.b_t


def slab_sites(
    slab: torch.Tensor, sites: Sequence[LoraSite], layout: SlabLayout
) -> tuple[SiteWeights | None, ...]:
    """Per site, the views its kernel needs; None where no target of the site is targeted."""
    weights: list[SiteWeights | None] = []
    first = 0
    for site, a_offset in zip(sites, layout.a_offsets, strict=True):
        targets = tuple(_targets(slab, site, layout, first))
        first += len(site.targets)
        if a_offset == UNTARGETED:
            weights.append(None)
            continue
        num_ranks = targets[-1].ranks.stop
        if layout.transposed_a:
            a_t = _matrix(slab, a_offset, site.in_features, num_ranks)
        else:
            a_t = _matrix(slab, a_offset, num_ranks, site.in_features).t()
        weights.append(SiteWeights(a_t, targets))
    return tuple(weights)


def _targets(
    slab: torch.Tensor, site: LoraSite, layout: SlabLayout, first: int
) -> Iterator[TargetWeights]:
    """The targeted targets of a site whose first target has number `first`."""
    rank_start = 0
    for index, target in enumerate(site.targets, first):
        rank = layout.ranks[index]
        if rank:
            yield TargetWeights(
                b_t=_matrix(slab, layout.b_offsets[index], rank, target.out_features),
                ranks=slice(rank_start, rank_start + rank),
                columns=slice(target.out_start, target.out_start + target.out_features),
            )
            rank_start += rank


def _matrix(slab: torch.Tensor, offset: int, rows: int, columns: int) -> torch.Tensor:
    return slab[offset : offset + rows * columns].view(rows, columns)


def _overflows(slab: torch.Tensor, sites: Sequence[LoraSite], layout: SlabLayout) -> list[str]:
    dtype = str(slab.dtype).removeprefix("torch.")
    return [
        f"{module} overflows {dtype} once scaled"
        for module, a, b_t in slab_matrices(slab, sites, layout)
        if not (all_finite(a) and all_finite(b_t))
    ]
