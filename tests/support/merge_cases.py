"""Merging written down once more, densely, in float64 numpy: the reference of our merges.

One definition per strategy, straight from the papers: TIES (arXiv:2306.01708), DARE
(arXiv:2311.03099). Deltas come from PEFT.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lorax_serve.engine.adapters.weights import LoraMatrices, LoraWeights

Delta = np.ndarray


def in_numpy(deltas: Mapping[str, torch.Tensor]) -> dict[str, Delta]:
    return {module: delta.double().numpy() for module, delta in deltas.items()}


def weights_deltas(weights: LoraWeights) -> dict[str, Delta]:
    """What our host form of an adapter adds to each linear."""
    return {
        module: each.scale * (each.b.double() @ each.a.double()).numpy()
        for module, each in weights.matrices.items()
    }


def random_weights(
    digest: str, shapes: Mapping[str, tuple[int, int, int]], *, seed: int, scale: float = 1.0
) -> LoraWeights:
    """An adapter with random matrices; a shape is (out, rank, in)."""
    generator = torch.Generator().manual_seed(seed)
    return LoraWeights(
        name=digest,
        digest=digest,
        matrices={
            module: LoraMatrices(
                torch.randn(rank, width, generator=generator),
                torch.randn(height, rank, generator=generator),
                scale,
            )
            for module, (height, rank, width) in shapes.items()
        },
        unknown_config_fields=(),
    )


def linear(deltas: Sequence[Delta], weights: Sequence[float]) -> Delta:
    return sum(w * d for w, d in zip(weights, deltas, strict=True))


def trim(delta: Delta, density: float) -> Delta:
    """Zero all but the largest `density` of the elements."""
    flat = np.abs(delta).ravel()
    num_kept = int(density * flat.size)
    kept = np.argsort(flat)[::-1][:num_kept]
    mask = np.zeros(flat.size, bool)
    mask[kept] = True
    return np.where(mask.reshape(delta.shape), delta, 0.0)


def elect_and_average(pruned: Sequence[Delta], weights: Sequence[float], method: str) -> Delta:
    """Element by element, as one would by hand."""
    stack = np.stack(pruned)
    out = np.zeros(stack.shape[1:])
    for place in np.ndindex(out.shape):
        values = stack[(slice(None), *place)]
        votes = values.sum() if method == "total" else np.sign(values).sum()
        sign = 1 if votes >= 0 else -1
        agreeing = [w * v for w, v in zip(weights, values, strict=True) if np.sign(v) == sign]
        out[place] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return out


def relative_error(got: Delta, expected: Delta) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def best_error(delta: Delta, rank: int) -> float:
    """The relative error of the best approximation of that rank."""
    sizes = np.linalg.svd(delta, compute_uv=False)
    return float(np.sqrt((sizes[rank:] ** 2).sum() / (sizes**2).sum()))
