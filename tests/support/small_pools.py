"""Pools of a few alignment units, and adapters without targets to fill them with."""

import torch

from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.eviction import UseHistory
from lorax_serve.engine.adapters.slab import PackedAdapter, SlabLayout
from lorax_serve.engine.adapters.slab_memory import TorchSlabs
from lorax_serve.engine.adapters.slab_tier import ALIGNMENT
from lorax_serve.engine.adapters.tensor_shapes import TensorShapes
from random_lora import made_up_sites

SITES = made_up_sites()
CPU = torch.device("cpu")


def new_pool(capacity_bytes: int) -> AdapterPool:
    return AdapterPool(new_memory(capacity_bytes), UseHistory())


def new_memory(capacity_bytes: int, dtype: torch.dtype = torch.float32) -> TorchSlabs:
    return TorchSlabs(SITES, capacity_bytes=capacity_bytes, dtype=dtype, device=CPU)


def blank(digest: str, num_units: int) -> PackedAdapter:
    """An adapter without targets that takes `num_units` alignment units."""
    untargeted = tuple(-1 for site in SITES for _ in site.targets)
    num_elements = num_units * ALIGNMENT // 4
    layout = SlabLayout(
        a_offsets=(-1,) * len(SITES),
        b_offsets=untargeted,
        ranks=(0,) * len(untargeted),
        num_elements=num_elements,
        transposed_a=True,
        shapes=TensorShapes([]),
        pieces=TensorShapes([]),
        places=(),
    )
    return PackedAdapter(digest, layout, torch.full((num_elements,), float(hash(digest) % 1000)))


def place(pool: AdapterPool, digest: str, num_units: int = 1) -> AdapterSlot:
    slot = pool.place(blank(digest, num_units))
    assert slot is not None
    return slot
