"""Merging that looks at single elements: deltas are pruned, then added up or averaged.

- magnitude pruning keeps the largest elements, as TIES does (Yadav et al. 2023,
  https://arxiv.org/abs/2306.01708, section 4.1)
- random pruning drops elements and scales up the rest, as DARE does (Yu et al. 2023,
  https://arxiv.org/abs/2311.03099, section 3.2)

Deltas come as functions and are computed each time they are wanted, so that however many are
merged, only a few matrices of a model's full width are in memory.

Legend: O output features, I input features.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lorax_serve.ipc.types import MajoritySignMethod

Pruning = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class WeightedDelta:
    """One adapter's share in a merge of one linear."""

    compute: Callable[[], torch.Tensor]  # a fresh pruned delta [O, I], float32
    weight: float


def prune_magnitudes(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keep the `density * numel` elements (at least one) of largest magnitude; overwrites.

    Elements as large as the smallest one kept are kept too.
    """
    num_kept = max(1, int(density * delta.numel()))
    if num_kept == delta.numel():
        return delta
    magnitudes = delta.abs()
    threshold = magnitudes.flatten().kthvalue(delta.numel() - num_kept + 1).values
    return delta.mul_(magnitudes >= threshold)


def prune_randomly(delta: torch.Tensor, density: float, seed: int) -> torch.Tensor:
    """Keep each element with probability `density`, divided by it, so that the mean stays;
    overwrites."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(delta.shape, generator=generator) < density
    return delta.mul_(kept).div_(density)


def pruning_seed(digest: str, module: str) -> int:
    """The same for the same adapter content and linear, whatever else it is merged with."""
    return int.from_bytes(hashlib.sha256(f"dare\0{digest}\0{module}".encode()).digest()[:7])


def weighted_sum(deltas: Sequence[WeightedDelta]) -> torch.Tensor:
    """sum(weight * delta), [O, I]."""
    total = deltas[0].compute().mul_(deltas[0].weight)
    for each in deltas[1:]:
        total.add_(each.compute(), alpha=each.weight)
    return total


def elected_mean(deltas: Sequence[WeightedDelta], method: MajoritySignMethod) -> torch.Tensor:
    """TIES: elect a sign per element; the weighted mean of the deltas that have it. [O, I].

    The sum of values (total) or of signs (frequency), before weights, elects; zero elects plus. The
    mean divides by the number of deltas that agree, not by their weights, so that twice the weights
    are twice the result.
    """
    positive = _votes(deltas, method) >= 0
    total = torch.zeros(positive.shape)
    num_agreeing = torch.zeros(positive.shape)
    for each in deltas:
        delta = each.compute()
        agrees = torch.where(positive, delta > 0, delta < 0)
        total.add_(delta.mul_(agrees), alpha=each.weight)
        num_agreeing += agrees
    return total.div_(num_agreeing.clamp_(min=1))


def _votes(deltas: Sequence[WeightedDelta], method: MajoritySignMethod) -> torch.Tensor:
    votes = _vote(deltas[0], method)
    for each in deltas[1:]:
        votes += _vote(each, method)
    return votes


def _vote(each: WeightedDelta, method: MajoritySignMethod) -> torch.Tensor:
    delta = each.compute()
    return delta.sign_() if method is MajoritySignMethod.FREQUENCY else delta
