"""How a GPU's memory is divided: weights, adapters, activations, graphs, and the rest is KV cache.

What can be measured is measured: the weights are there, and a step of the largest size is run once
for the peak of its activations.
"""

from dataclasses import dataclass

import torch

from lorax_serve.engine.errors import ModelRefused

_GIB = 2**30
# Of one graph: its nodes, and its share of the memory that all of them use in turn (measured).
_GRAPH_BYTES_PER_LAYER = 400 * 2**10


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Bytes. Printed at start, and in the refusal when the model does not fit."""

    total: int  # of the device
    share: float  # of the total that may be used
    used_by_others: int  # outside of this process's tensors, the CUDA context included
    weights: int
    adapters: int
    activations: int
    graphs: int

    @property
    def kv_cache(self) -> int:
        taken = self.used_by_others + self.weights + self.adapters
        return int(self.total * self.share) - taken - self.activations - self.graphs

    @property
    def sums(self) -> str:
        parts = {
            f"{self.share:.0%} of {_gib(self.total)} GiB": self.total * self.share,
            "context and others": self.used_by_others,
            "weights": self.weights,
            "adapters": self.adapters,
            "activations": self.activations,
            "graphs": self.graphs,
        }
        (first, budget), *others = parts.items()
        terms = "".join(f" - {_gib(size)} {name}" for name, size in others)
        return f"{first} = {_gib(budget)}{terms} = {_gib(self.kv_cache)} GiB for the KV cache"


def graph_bytes(num_graphs: int, num_layers: int) -> int:
    """What CUDA graphs of whole steps will take, and a quarter more."""
    return num_graphs * num_layers * _GRAPH_BYTES_PER_LAYER


def measure(
    device: torch.device, *, share: float, adapters: int, activations: int, graphs: int
) -> GpuMemory:
    """To be called with the model loaded and nothing else."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    weights = torch.cuda.memory_allocated(device)
    return GpuMemory(
        total=total,
        share=share,
        used_by_others=total - free - torch.cuda.memory_reserved(device),
        weights=weights,
        adapters=adapters,
        activations=activations,
        graphs=graphs,
    )


def kv_cache_bytes(memory: GpuMemory, wanted: int | None, bytes_per_block: int) -> int:
    """What the KV cache gets. Raises ModelRefused, with the sums, when it does not fit."""
    if wanted is not None and wanted > memory.kv_cache:
        raise ModelRefused(f"--kv-cache-memory of {_gib(wanted)} GiB does not fit: {memory.sums}.")
    if memory.kv_cache < 2 * bytes_per_block:
        raise ModelRefused(
            f"The model does not fit: {memory.sums}. Lower --adapter-memory or --max-batch-tokens."
        )
    return wanted or memory.kv_cache


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f}"
