"""Who asks for which adapter, and what a cache makes of it."""

import random
from collections import OrderedDict
from collections.abc import Sequence

from lorax_serve.engine.adapters.eviction import Resident, UseHistory
from lorax_serve.engine.adapters.slab_tier import SlabTier


def zipf_trace(
    num_adapters: int, length: int, *, exponent: float = 1.0, seed: int = 0
) -> list[int]:
    """Adapter numbers; the k-th most popular one, anywhere in the numbering, with weight k^-s."""
    rng = random.Random(seed)
    by_popularity = list(range(num_adapters))
    rng.shuffle(by_popularity)
    weights = [(rank + 1) ** -exponent for rank in range(num_adapters)]
    return rng.choices(by_popularity, weights=weights, k=length)


def lru_hits(trace: Sequence[int], sizes: Sequence[int], capacity: int) -> int:
    """Of a cache that evicts by last use, and is spared all fragmentation."""
    residents: OrderedDict[int, int] = OrderedDict()
    used = hits = 0
    for adapter in trace:
        if adapter in residents:
            residents.move_to_end(adapter)
            hits += 1
            continue
        while used + sizes[adapter] > capacity:
            used -= residents.popitem(last=False)[1]
        residents[adapter] = sizes[adapter]
        used += sizes[adapter]
    return hits


def tier_hits(trace: Sequence[int], sizes: Sequence[int], capacity: int) -> int:
    """Of one of the engine's tiers, with contiguous extents."""
    history = UseHistory()
    tier: SlabTier[Resident] = SlabTier(capacity, history)
    hits = 0
    for adapter in trace:
        digest = str(adapter)
        history.record(digest)
        resident = tier.find(digest)
        if resident is not None:
            tier.touch(resident)
            hits += 1
            continue
        room = tier.make_room(sizes[adapter])
        assert room is not None, "nothing is pinned"
        seconds = 0.01 + sizes[adapter] / 25e9
        tier.add(Resident(digest=digest, extent=room[0], reload_seconds=seconds))
    tier.check_integrity()
    return hits
