"""Several adapters as one, merged on what they add to the model's weights.

An adapter adds `delta = scale * B A` to a linear (`scale` is alpha / r, or alpha / sqrt(r)). Deltas
are merged, never A and B on their own: a weight w means w, and ranks, scales and targets may differ
from part to part. A linear that only some parts target is merged from those. docs/merging.md has
the formulas, and where they differ from LoRAX's and PEFT's.

- linear: `sum(w * delta)`, exactly, by laying the factors side by side at the sum of the ranks.
  Where that is more than is served: cut to the highest served rank if what is lost is below
  `LINEAR_TOLERANCE` of the norm, and refused otherwise.
- the others prune single elements first, which leaves no low rank to be exact about. Their result
  is the best approximation of the highest served rank, or of the highest that there is room for;
  the log says how far that is off.

What comes out has scale 1: weights and scales are folded into B, as float32.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog
import torch

from lorax_serve.engine.adapters.elementwise_merge import (
    elected_mean,
    prune_magnitudes,
    prune_randomly,
    pruning_seed,
    weighted_sum,
)
from lorax_serve.engine.adapters.file_watch import FileWatch
from lorax_serve.engine.adapters.finite import all_finite
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.low_rank import (
    NEGLIGIBLE,
    LowRank,
    RankExceeded,
    factor,
    narrow,
)
from lorax_serve.engine.adapters.matrices import BaseWeight
from lorax_serve.engine.adapters.refusal import Refusal, incompatible, not_finite, shown
from lorax_serve.engine.adapters.weights import LoraMatrices, LoraWeights
from lorax_serve.ipc.types import ErrorCode, MergedAdapters, MergeStrategy
from lorax_serve.kernels.lora import LoraSite

log = structlog.get_logger(__name__)

MERGE_VERSION = 2  # raise it when the same merge comes to mean other numbers
LINEAR_TOLERANCE = 1e-3  # less than rounding the same delta to bfloat16 loses
# What a pruned merge gets however little room there is, if it is served; or the sum of the ranks.
# Pruning spreads a flat floor of noise over all ranks, so that fewer would not be much worse.
PRUNED_RANK = 64


@dataclass(frozen=True, slots=True)
class _Term:
    """One part's matrices for one linear."""

    matrices: LoraMatrices
    weight: float
    seed: int  # of random pruning

    def delta(self) -> torch.Tensor:
        """`scale * B A`, [out, in], float32, fresh; the weight is left out."""
        each = self.matrices
        return (each.b.float() * each.scale) @ each.a.float()


@dataclass(frozen=True, slots=True)
class _Ranks:
    """The highest: that is served at all, and for what pruning leaves."""

    served: int
    pruned: int


def read_merged(
    merge: MergedAdapters,
    sites: Sequence[LoraSite],
    *,
    max_rank: int,
    max_elements: int,
    base_model: str = "",
    base_weight: BaseWeight | None = None,
    watch: FileWatch | None = None,
) -> LoraWeights:
    """Read every part as `read_adapter` does, and merge them. Safe on any thread.

    Holds the parts' files and, for one linear at a time, a dense matrix per part and a few more.
    Raises AdapterRejected: for a part, under its own name, or for the merge.
    """
    parts = [
        read_adapter(
            part,
            sites,
            max_rank=max_rank,
            base_model=base_model,
            base_weight=base_weight,
            watch=watch,
        )
        for part in merge.parts
    ]
    return merge_weights(merge, parts, max_rank=max_rank, max_elements=max_elements)


def merge_weights(
    merge: MergedAdapters, parts: Sequence[LoraWeights], *, max_rank: int, max_elements: int
) -> LoraWeights:
    """`parts` as one adapter of at most `max_rank`; where they are pruned, of so many elements, or
    of the lowest rank that pruned merges get. Raises AdapterRejected.
    """
    heads = [part.name for part in parts if part.head is not None]
    if heads:
        raise incompatible(*(f"{shown(name)} has a classification head" for name in heads)).named(
            merge.name
        )
    ranks = _Ranks(max_rank, min(max_rank, max(PRUNED_RANK, _affordable(parts, max_elements))))
    try:
        merged = _merge_all(merge, parts, ranks)
    except Refusal as refusal:
        raise refusal.named(merge.name) from None
    _report(merge, merged)
    return LoraWeights(
        name=merge.name,
        digest=_digest(merge, parts, ranks),
        matrices={name: LoraMatrices(each.a, each.b, 1.0) for name, each in merged.items()},
        unknown_config_fields=tuple(sorted({f for p in parts for f in p.unknown_config_fields})),
    )


def _affordable(parts: Sequence[LoraWeights], max_elements: int) -> int:
    """The rank at which all targeted linears together have at most so many elements."""
    shapes = {
        name: each.a.shape[1] + each.b.shape[0]
        for part in parts
        for name, each in part.matrices.items()
    }
    return max_elements // sum(shapes.values())


def _merge_all(
    merge: MergedAdapters, parts: Sequence[LoraWeights], ranks: _Ranks
) -> dict[str, LowRank]:
    merged: dict[str, LowRank] = {}
    needed_ranks: dict[str, int] = {}
    for module, terms in _terms_by_module(merge, parts).items():
        try:
            merged[module] = _merge_linear(module, terms, merge, ranks)
        except RankExceeded as exceeded:
            needed_ranks[module] = exceeded.needed_rank
    if needed_ranks:
        module, rank = max(needed_ranks.items(), key=lambda item: item[1])
        raise Refusal(
            ErrorCode.ADAPTER_TOO_LARGE,
            f"merged, {module} needs rank {rank} to be within {LINEAR_TOLERANCE:.1%}, the highest "
            f"served is {ranks.served}",
        )
    return merged


def _terms_by_module(merge: MergedAdapters, parts: Sequence[LoraWeights]) -> dict[str, list[_Term]]:
    terms: dict[str, list[_Term]] = {}
    for part, weight in zip(parts, merge.weights, strict=True):
        for module, matrices in part.matrices.items():
            term = _Term(matrices, weight, pruning_seed(part.digest, module))
            terms.setdefault(module, []).append(term)
    return terms


def _merge_linear(
    module: str, terms: Sequence[_Term], merge: MergedAdapters, ranks: _Ranks
) -> LowRank:
    """One linear's deltas as one. Raises RankExceeded, and Refusal where numbers overflow."""
    strategy, density = merge.strategy, merge.density
    # Nothing pruned and no sign elected: that is a sum.
    if density is None or (density == 1 and not strategy.elects_signs):
        return _add_up(module, terms, ranks.served)
    deltas = (_pruned(term, strategy, density) for term in terms)
    weights = [term.weight for term in terms]
    if strategy.elects_signs:
        delta = elected_mean(list(deltas), weights, merge.majority_sign_method)
    else:
        delta = weighted_sum(deltas, weights)
    _check_finite(module, delta)
    sum_of_ranks = sum(term.matrices.rank for term in terms)
    return factor(delta, min(ranks.served, max(ranks.pruned, sum_of_ranks)))


def _add_up(module: str, terms: Sequence[_Term], max_rank: int) -> LowRank:
    """`sum(w * scale * B A) = [w_1 scale_1 B_1 | w_2 scale_2 B_2 | …] [A_1; A_2; …]`."""
    a = torch.cat([t.matrices.a.float() for t in terms])
    b = torch.cat([t.matrices.b.float() * (t.weight * t.matrices.scale) for t in terms], dim=1)
    if a.shape[0] <= max_rank:
        return LowRank(a, b, 0.0)
    _check_finite(module, b)
    return narrow(b, a, max_rank, LINEAR_TOLERANCE)


def _pruned(term: _Term, strategy: MergeStrategy, density: float) -> torch.Tensor:
    if strategy in (MergeStrategy.DARE_LINEAR, MergeStrategy.DARE_TIES):
        return prune_randomly(term.delta(), density, term.seed)
    return prune_magnitudes(term.delta(), density)


def _check_finite(module: str, matrix: torch.Tensor) -> None:
    if not all_finite(matrix):
        raise not_finite(f"{module} overflows float32 once merged")


def _report(merge: MergedAdapters, merged: Mapping[str, LowRank]) -> None:
    """Say what was merged; louder where ranks were cut, with the worst residual of a linear."""
    worst = max(each.residual for each in merged.values())
    cut = worst > NEGLIGIBLE
    say = log.warning if cut else log.info
    say(
        "adapters_merged_approximately" if cut else "adapters_merged",
        num_adapters=len(merge.parts),
        strategy=merge.strategy.value,
        max_rank=max(each.rank for each in merged.values()),
        relative_residual=worst,
    )


def _digest(merge: MergedAdapters, parts: Sequence[LoraWeights], ranks: _Ranks) -> str:
    """sha256 hex of all that decides the numbers: the recipe, the cut, the parts in their order."""
    recipe = (
        MERGE_VERSION,
        merge.strategy,
        merge.weights,
        merge.density,
        merge.majority_sign_method,
        (ranks.served, ranks.pruned) if merge.strategy.prunes else ranks.served,
        [part.digest for part in parts],
    )
    return hashlib.sha256(msgspec.json.encode(recipe)).hexdigest()
