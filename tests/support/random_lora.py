"""Random adapters without files: LoraWeights of any ranks for made-up sites."""

import random
from collections.abc import Mapping, Sequence

import torch

from lorax_serve.engine.adapters.slab import PackedAdapter, fill_slab, layout_of
from lorax_serve.engine.adapters.weights import LoraMatrices, LoraWeights
from lorax_serve.kernels.lora import LoraSite, LoraTarget


def made_up_sites(num_layers: int = 2, width: int = 16) -> tuple[LoraSite, ...]:
    """Per layer a fused q/k/v-like site and a plain one, all of different sizes."""
    sites: list[LoraSite] = []
    for layer in range(num_layers):
        fused = (
            LoraTarget(f"layers.{layer}.q", 0, width),
            LoraTarget(f"layers.{layer}.k", width, width // 2),
            LoraTarget(f"layers.{layer}.v", width + width // 2, width // 4),
        )
        sites.append(LoraSite(len(sites), width, fused))
        plain = LoraTarget(f"layers.{layer}.down", 0, width)
        sites.append(LoraSite(len(sites), 2 * width, (plain,)))
    return tuple(sites)


def out_features(site: LoraSite) -> int:
    last = site.targets[-1]
    return last.out_start + last.out_features


def random_weights(
    sites: Sequence[LoraSite],
    ranks: Mapping[str, int],
    *,
    seed: int = 0,
    name: str = "random",
    dtype: torch.dtype = torch.float32,
) -> LoraWeights:
    """An adapter of the given rank per module (0: untargeted). Its digest names seed and ranks."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    matrices = {
        target.module: LoraMatrices(
            matrix(rank, site.in_features), matrix(target.out_features, rank), 0.5 + seed % 3
        )
        for site in sites
        for target in site.targets
        if (rank := ranks.get(target.module, 0))
    }
    digest = f"{name}-{seed}-{sorted(ranks.items())}"
    return LoraWeights(name, digest, matrices, unknown_config_fields=())


def pack(
    weights: LoraWeights,
    sites: Sequence[LoraSite],
    *,
    dtype: torch.dtype = torch.float32,
    transposed_a: bool = True,
) -> PackedAdapter:
    """The adapter in a slab of its own. Raises AdapterRejected."""
    layout = layout_of(weights, sites, transposed_a=transposed_a)
    slab = torch.empty(layout.num_elements, dtype=dtype)
    fill_slab(slab, weights, layout)
    return PackedAdapter(weights.digest, layout, slab)


def uniform_ranks(sites: Sequence[LoraSite], rank: int) -> dict[str, int]:
    return {target.module: rank for site in sites for target in site.targets}


def mixed_ranks(sites: Sequence[LoraSite], seed: int) -> dict[str, int]:
    """A rank of its own for each module, some untargeted, at least one not."""
    rng = random.Random(seed)
    ranks = {
        target.module: rng.choice([0, 0, 1, 3, 8, 17]) for site in sites for target in site.targets
    }
    ranks[sites[0].targets[0].module] = 2
    return ranks
