"""How an adapter lies in memory: one contiguous slab at its true ranks.

Per site, in order: A_cat [R, in], the A matrices of its targeted targets stacked so that one
product serves them all; then each target's B^T [r, out], with the scale folded in. Rows are as long
as the model is wide, so they stay aligned at any rank.

    site 0: A_q A_k A_v | B_q^T | B_k^T | B_v^T    site 1: A_o | B_o^T    …    classification head

Legend: sites are numbered over the whole model, and so are targets, sites in order, each site's
targets in order. r is a target's rank, R the sum of a site's.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from lorax_serve.engine.adapters.finite import all_finite
from lorax_serve.engine.adapters.label_head import HeadShape, LabelHead, head_of
from lorax_serve.engine.adapters.tensor_shapes import TensorShapes
from lorax_serve.engine.adapters.weights import LoraMatrices, LoraWeights
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.engine.lull import no_pause
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.kernels.lora import LoraSite
from lorax_serve.kernels.sgmv import SiteWeights, TargetWeights

UNTARGETED = -1


@dataclass(frozen=True, slots=True)
class MatrixPlace:
    """Which pieces of a slab are one target's."""

    module: str
    a_piece: int
    a_columns: slice | None  # of a piece [in, R] that its site's targets share; None: all its own
    b_piece: int


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
    shapes: TensorShapes = field(compare=False, repr=False)  # of all A_cat and B^T, end to end
    # The same, but for A_cat in rows: each target's A [r, in] is a piece of its own.
    pieces: TensorShapes = field(compare=False, repr=False)
    places: tuple[MatrixPlace, ...] = field(compare=False, repr=False)  # by targeted target
    head: HeadShape | None = None  # it has the last elements

    @property
    def num_head_elements(self) -> int:
        return 0 if self.head is None else self.head.num_elements

    def label_head(self, slab: torch.Tensor) -> LabelHead | None:
        """Views of a slab so laid out, [num_elements]."""
        if self.head is None:
            return None
        return head_of(slab, self.num_elements - self.head.num_elements, self.head)


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
    sites: Sequence[LoraSite],
    ranks: Mapping[str, int],
    *,
    transposed_a: bool,
    head: HeadShape | None = None,
) -> SlabLayout:
    """Lay out matrices of the given ranks by module; modules that are not named are untargeted."""
    a_offsets, b_offsets, all_ranks = [], [], []
    shapes: list[tuple[int, int]] = []
    pieces: list[tuple[int, int]] = []
    places: list[MatrixPlace] = []
    end = 0
    for site in sites:
        site_ranks = [ranks.get(target.module, 0) for target in site.targets]
        total = sum(site_ranks)
        a_offsets.append(end if total else UNTARGETED)
        end += total * site.in_features
        if total:
            shapes.append((site.in_features, total) if transposed_a else (total, site.in_features))
        places += _places(site, site_ranks, len(pieces), transposed_a=transposed_a)
        pieces += _pieces(site, site_ranks, transposed_a=transposed_a)
        for target, rank in zip(site.targets, site_ranks, strict=True):
            b_offsets.append(end if rank else UNTARGETED)
            end += rank * target.out_features
            if rank:
                shapes.append((rank, target.out_features))
        all_ranks += site_ranks
    return SlabLayout(
        a_offsets=tuple(a_offsets),
        b_offsets=tuple(b_offsets),
        ranks=tuple(all_ranks),
        num_elements=end + (0 if head is None else head.num_elements),
        transposed_a=transposed_a,
        shapes=TensorShapes(shapes),
        pieces=TensorShapes(pieces),
        places=tuple(places),
        head=head,
    )


def _pieces(
    site: LoraSite, ranks: Sequence[int], *, transposed_a: bool
) -> Iterator[tuple[int, int]]:
    """A of each targeted target, or of all in one, then B^T of each."""
    targeted = [(t, rank) for t, rank in zip(site.targets, ranks, strict=True) if rank]
    if transposed_a and targeted:
        yield site.in_features, sum(ranks)
    elif targeted:
        yield from ((rank, site.in_features) for _, rank in targeted)
    yield from ((rank, target.out_features) for target, rank in targeted)


def _places(
    site: LoraSite, ranks: Sequence[int], first_piece: int, *, transposed_a: bool
) -> Iterator[MatrixPlace]:
    targeted = [(t, rank) for t, rank in zip(site.targets, ranks, strict=True) if rank]
    first_b = first_piece + (1 if transposed_a else len(targeted))
    first_rank = 0
    for number, (target, rank) in enumerate(targeted):
        columns = slice(first_rank, first_rank + rank) if transposed_a else None
        a_piece = first_piece if transposed_a else first_piece + number
        yield MatrixPlace(target.module, a_piece, columns, first_b + number)
        first_rank += rank


def layout_of(weights: LoraWeights, sites: Sequence[LoraSite], *, transposed_a: bool) -> SlabLayout:
    """How an adapter will lie in its slab."""
    ranks = {module: each.rank for module, each in weights.matrices.items()}
    return plan_slab(sites, ranks, transposed_a=transposed_a, head=weights.head_shape)


def fill_slab(
    slab: torch.Tensor,
    weights: LoraWeights,
    layout: SlabLayout,
    pause: Callable[[], None] = no_pause,
) -> None:
    """Fold the scale into B in float32, cast, and write everything to its place in the slab.

    `pause` is called before each piece of work in Python. Raises AdapterRejected when a value
    overflows the slab's type.
    """
    _fill_head(slab, weights, layout)
    if not layout.places:
        return  # operators on lists refuse empty ones
    pause()
    matrices = list(slab_matrices(slab, layout))
    sources = [weights.matrices[module] for module, _, _ in matrices]
    pause()
    torch._foreach_copy_([a for _, a, _ in matrices], [each.a for each in sources])
    pause()
    _fill_b([b_t for _, _, b_t in matrices], sources)
    if not all_finite(slab):
        raise AdapterRejected(weights.name, ErrorCode.ADAPTER_NOT_FINITE, _overflows(slab, layout))


def _fill_head(slab: torch.Tensor, weights: LoraWeights, layout: SlabLayout) -> None:
    place = layout.label_head(slab)
    if place is None or weights.head is None:
        return
    place.weight.copy_(weights.head.weight)
    if place.bias is not None and weights.head.bias is not None:
        place.bias.copy_(weights.head.bias)


def _fill_b(places: list[torch.Tensor], sources: Sequence[LoraMatrices]) -> None:
    """By operators on lists, so that the interpreter's lock is not asked for in between."""
    scales = [each.scale for each in sources]
    matrices = [each.b for each in sources]
    dtype = places[0].dtype
    if all(scale == 1 for scale in scales):
        torch._foreach_copy_(places, [each.T for each in matrices])
    elif dtype == torch.float32 or (_have_type(dtype, matrices) and all(map(_is_exact, scales))):
        # Neither the copy nor the scale, which takes the slab's type, loses anything.
        torch._foreach_copy_(places, [each.T for each in matrices])
        torch._foreach_mul_(places, scales)
    else:
        wide = [each if each.dtype == torch.float32 else each.float() for each in matrices]
        torch._foreach_copy_(places, [each.T for each in torch._foreach_mul(wide, scales)])


def _have_type(dtype: torch.dtype, tensors: Sequence[torch.Tensor]) -> bool:
    return all(each.dtype == dtype for each in tensors)


def _is_exact(scale: float) -> bool:
    """Whether it is a power of two, of a size that every type has."""
    return abs(math.frexp(scale)[0]) == 0.5 and 2**-8 <= abs(scale) <= 2**8


def slab_matrices(
    slab: torch.Tensor, layout: SlabLayout
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Each targeted module with views of its A [r, in] and its scaled B^T [r, out]."""
    pieces = layout.pieces.unflatten(_matrices_of(slab, layout))
    for place in layout.places:
        a = pieces[place.a_piece]
        if place.a_columns is not None:
            a = a[:, place.a_columns].T
        yield place.module, a, pieces[place.b_piece]


def slab_sites(
    slab: torch.Tensor, sites: Sequence[LoraSite], layout: SlabLayout
) -> tuple[SiteWeights | None, ...]:
    """Per site, the views its kernel needs; None where no target of the site is targeted."""
    matrices = iter(layout.shapes.unflatten(_matrices_of(slab, layout)))
    weights: list[SiteWeights | None] = []
    first = 0
    for site, a_offset in zip(sites, layout.a_offsets, strict=True):
        ranks = layout.ranks[first : first + len(site.targets)]
        first += len(site.targets)
        if a_offset == UNTARGETED:
            weights.append(None)
            continue
        a_cat = next(matrices)
        a_t = a_cat if layout.transposed_a else a_cat.T
        weights.append(SiteWeights(a_t, tuple(_targets(site, ranks, matrices))))
    return tuple(weights)


def _targets(
    site: LoraSite, ranks: Sequence[int], matrices: Iterator[torch.Tensor]
) -> Iterator[TargetWeights]:
    """The targeted targets of a site; `matrices` gives the B^T of each in turn."""
    rank_start = 0
    for target, rank in zip(site.targets, ranks, strict=True):
        if rank:
            yield TargetWeights(
                b_t=next(matrices),
                ranks=slice(rank_start, rank_start + rank),
                columns=slice(target.out_start, target.out_start + target.out_features),
            )
            rank_start += rank


def _matrices_of(slab: torch.Tensor, layout: SlabLayout) -> torch.Tensor:
    """All but the head."""
    return slab[: layout.num_elements - layout.num_head_elements]


def _overflows(slab: torch.Tensor, layout: SlabLayout) -> list[str]:
    dtype = str(slab.dtype).removeprefix("torch.")
    head = layout.label_head(slab)
    if head is not None and not all_finite(slab[-layout.num_head_elements :]):
        return [f"its classification head overflows {dtype}"]
    return [
        f"{module} overflows {dtype} once scaled"
        for module, a, b_t in slab_matrices(slab, layout)
        if not (all_finite(a) and all_finite(b_t))
    ]
