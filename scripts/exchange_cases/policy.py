"""The same Zipf trace through one tier and through an LRU cache."""

import random

from exchange_cases.figures import report
from exchange_cases.sizes import DEVICE_SLOTS, HOST_SLOTS, NUM_ADAPTERS
from exchange_cases.traces import lru_hits, tier_hits, zipf_trace


def policy(scale: float) -> None:
    trace = zipf_trace(NUM_ADAPTERS, int(50_000 * scale))
    rng = random.Random(1)
    unit = 64 * 256
    for name, sizes in (
        ("one size", [unit] * NUM_ADAPTERS),
        ("ranks 8 to 64", [unit * rng.choice((1, 2, 4, 8)) for _ in range(NUM_ADAPTERS)]),
    ):
        mean = sum(sizes) // len(sizes)
        for slots in (DEVICE_SLOTS, HOST_SLOTS):
            hits, lru = (count(trace, sizes, slots * mean) for count in (tier_hits, lru_hits))
            report(
                case="policy",
                sizes=name,
                slots=slots,
                hit_rate=round(hits / len(trace), 4),
                lru_hit_rate=round(lru / len(trace), 4),
                ratio=round(hits / lru, 3),
            )
