"""Merging that looks at single elements: deltas are pruned, then added up or averaged.

- magnitude pruning keeps the largest elements, as TIES does (Yadav et al. 2023,
  https://arxiv.org/abs/2306.01708, section 4.1)
- random pruning drops elements and scales up the rest, as DARE does (Yu et al. 2023,
  https://arxiv.org/abs/2311.03099, section 3.2)

Legend: O output features, I input features.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import reduce

import torch

from lorax_serve.ipc.types import MajoritySignMethod


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


def weighted_sum(deltas: Iterable[torch.Tensor], weights: Iterable[float]) -> torch.Tensor:
    """sum(weight * delta), [O, I]. Keeps no delta longer than it takes to add it; overwrites."""
    terms = (delta.mul_(weight) for delta, weight in zip(deltas, weights, strict=True))
    return reduce(torch.Tensor.add_, terms)


def elected_mean(
    deltas: Sequence[torch.Tensor], weights: Sequence[float], method: MajoritySignMethod
) -> torch.Tensor:
    """TIES: elect a sign per element; the weighted mean of the deltas that have it. [O, I].

    The sum of values (total) or of signs (frequency), before weights, elects; zero elects plus. The
    mean divides by the number of deltas that agree, not by their weights, so that twice the weights
    are twice the result. Overwrites the deltas.
    """
    by_sign = method is MajoritySignMethod.FREQUENCY
    votes = torch.zeros_like(deltas[0])
    for delta in deltas:
        votes += delta.sign() if by_sign else delta
    positive = votes >= 0
    total, num_agreeing = votes.zero_(), torch.zeros_like(votes)
    for delta, weight in zip(deltas, weights, strict=True):
        # Zeros, which nobody kept, have neither sign.
        agrees = (delta != 0) & ((delta > 0) == positive)
        num_agreeing += agrees
        total.add_(delta.mul_(agrees), alpha=weight)
    return total.div_(num_agreeing.clamp_(min=1))
