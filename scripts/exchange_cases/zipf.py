"""A closed loop over adapters that fit neither tier; every output against a solo run."""

import itertools
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from exchange_cases.driver import LocalEngine, Trip
from exchange_cases.figures import milliseconds, percentile, report, resident_bytes
from exchange_cases.model import adapter_bytes, model_config, random_model, write_adapters
from exchange_cases.sizes import CONCURRENCY, DEVICE_SLOTS, HOST_SLOTS, NUM_ADAPTERS
from exchange_cases.traces import lru_hits, zipf_trace
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.ipc.types import AdapterRef


def zipf(scale: float) -> None:
    model = random_model(model_config(hidden_size=64, num_layers=2))
    num_adapters, num_requests = int(NUM_ADAPTERS * scale), int(6000 * scale)
    trace = zipf_trace(num_adapters, num_requests)
    rng = random.Random(2)
    prompts = [[rng.randrange(1, 512) for _ in range(rng.randint(4, 24))] for _ in trace]
    lengths = [rng.randint(8, 24) for _ in trace]
    size = adapter_bytes(model)
    with tempfile.TemporaryDirectory() as folder:
        refs = write_adapters(Path(folder), model, num_adapters)
        with LocalEngine(
            model,
            adapter_pool_bytes=DEVICE_SLOTS * size,
            host_adapter_bytes=HOST_SLOTS * size,
            max_num_sequences=CONCURRENCY,
        ) as engine:
            memory: list[int] = []
            upcoming = iter(range(num_requests))

            def feed() -> bool:
                open_ones = sum(not trip.has_ended for trip in recent(engine.trips))
                for index in itertools.islice(upcoming, CONCURRENCY - open_ones):
                    if index % max(1, num_requests // 4) == 0:
                        memory.append(resident_bytes())
                    ref = refs[trace[index]]
                    engine.submit(str(index), prompts[index], ref, num_tokens=lengths[index])
                return len(engine.trips) < num_requests

            started = time.perf_counter()
            engine.run(feed)
            elapsed = time.perf_counter() - started
            memory.append(resident_bytes())
            together, counts = engine.trips, engine.parts.exchange.counts
            engine.parts.exchange.check_integrity()
        num_wrong = count_wrong(model, refs, trace, prompts, lengths, together)
    waits = [trip.first_token_seconds for trip in together.values()]
    steps = [trip.first_token_steps for trip in together.values()]
    device_lru, host_lru = (
        lru_hits(trace, [1] * num_adapters, slots) for slots in (DEVICE_SLOTS, HOST_SLOTS)
    )
    report(
        case="zipf",
        num_adapters=num_adapters,
        num_requests=num_requests,
        num_wrong_outputs=num_wrong,
        tokens_per_second=round(sum(lengths) / elapsed, 1),
        # Copies and reads that were not needed. LRU is spared concurrency and pins.
        device_hit_rate=round(1 - counts.num_copies / num_requests, 4),
        lru_device_hit_rate=round(device_lru / num_requests, 4),
        host_hit_rate=round(1 - counts.num_loads / num_requests, 4),
        lru_host_hit_rate=round(host_lru / num_requests, 4),
        wait_p50_ms=milliseconds(percentile(waits, 50)),
        wait_max_ms=milliseconds(max(waits)),
        longest_over_median=round(max(waits) / percentile(waits, 50), 2),
        wait_p50_steps=percentile(steps, 50),
        wait_max_steps=max(steps),
        resident_mib_by_quarter=[round(size / 2**20, 1) for size in memory],
    )


def count_wrong(
    model: Decoder,
    refs: Sequence[AdapterRef],
    trace: Sequence[int],
    prompts: Sequence[list[int]],
    lengths: Sequence[int],
    together: dict[str, Trip],
) -> int:
    """How many requests get other tokens alone, on an engine with room for every adapter."""
    size = adapter_bytes(model)
    with LocalEngine(
        model,
        adapter_pool_bytes=len(refs) * size,
        host_adapter_bytes=HOST_SLOTS * size,
        prefix_cache=False,
    ) as engine:
        num_wrong = 0
        for index, adapter in enumerate(trace):
            name = str(index)
            engine.submit(name, prompts[index], refs[adapter], num_tokens=lengths[index])
            while not engine.trips[name].has_ended:
                if not engine.step():
                    engine.wait(0.001)
            num_wrong += engine.trips[name].token_ids != together[name].token_ids
        return num_wrong


def recent(trips: dict[str, Trip]) -> list[Trip]:
    """The trips that may still be open, of a closed loop."""
    return list(itertools.islice(reversed(trips.values()), 20 * CONCURRENCY))
