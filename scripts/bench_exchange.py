"""CPU benchmark of the adapter exchange: the engine in one process, adapters in a temporary folder.

    policy     the same Zipf trace through one tier and through an LRU cache, adapters of one size
               and of mixed sizes
    zipf       closed loop over adapters that fit neither tier; every output against a solo run
    churn      never-seen adapters at a fixed rate beside a steady background decode
    neighbour  one tenant at ten times its share, twenty quiet ones; and the quiet ones alone

Prints one JSON line a case. Ratios are of two measurements of the same run.

    .venv/bin/python scripts/bench_exchange.py [--cases policy,zipf,churn,neighbour] [--scale 0.1]
"""

import argparse
import itertools
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from exchange_cases.driver import LocalEngine, Trip
from exchange_cases.model import adapter_bytes, model_config, random_model, write_adapters
from exchange_cases.traces import lru_hits, tier_hits, zipf_trace

from lorax_serve.engine.interpreter import prepare_interpreter
from lorax_serve.engine.logging import configure_logging
from lorax_serve.engine.models.decoder import Decoder

NUM_ADAPTERS, DEVICE_SLOTS, HOST_SLOTS, CONCURRENCY = 2000, 32, 128, 64
NUM_QUIET, NOISY_SHARE = 20, 10


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
    refs: Sequence[object],
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


def churn(scale: float) -> None:
    """The background alone, beside short requests for resident adapters, each its own, and beside
    the same requests when nobody has seen the adapters: the last two differ by loads alone."""
    model = random_model(model_config(hidden_size=512, num_layers=8))
    rate, seconds = 20, max(2.0, 20 * scale)
    num_requests = int(rate * seconds)
    size = adapter_bytes(model)
    with tempfile.TemporaryDirectory() as folder:
        refs = write_adapters(Path(folder), model, num_requests + 8)
        gaps = {}
        for kind in ("alone", "resident", "never_seen"):
            with LocalEngine(
                model,
                adapter_pool_bytes=len(refs) * size,
                host_adapter_bytes=len(refs) * size,
                max_loading=1,
            ) as engine:
                for index, ref in enumerate(refs if kind == "resident" else refs[:8]):
                    engine.submit(f"warm-{index}", [1, 2, 3], ref, num_tokens=2)
                engine.run(lambda: False)
                gaps[kind] = background_gaps(engine, kind != "alone", refs, seconds, rate)
    figures = {kind: percentile(values, 99) for kind, values in gaps.items()}
    report(
        case="churn",
        adapters_per_second=rate,
        num_adapters=num_requests,
        adapter_bytes=size,
        background_p50_ms={k: milliseconds(percentile(v, 50)) for k, v in gaps.items()},
        background_p99_ms={k: milliseconds(v) for k, v in figures.items()},
        p99_over_alone=round(figures["never_seen"] / figures["alone"], 3),
        p99_over_resident=round(figures["never_seen"] / figures["resident"], 3),
    )


def background_gaps(
    engine: LocalEngine, has_others: bool, refs: Sequence[object], seconds: float, rate: int
) -> list[float]:
    """Times between tokens of eight long requests, on warm adapters, while others come and go."""
    for index in range(8):
        engine.submit(f"background-{index}", [5, 6, 7], refs[index], num_tokens=1000)
    started = time.perf_counter()
    num_sent = 0
    while (elapsed := time.perf_counter() - started) < seconds:
        while has_others and num_sent < min(elapsed * rate, len(refs) - 8):
            ref = refs[8 + num_sent]
            engine.submit(f"other-{num_sent}", [8, 9, 10, 11], ref, num_tokens=2)
            num_sent += 1
        for index in range(8):  # a background request that has ended goes on as another one
            name = f"background-{index}"
            if engine.trips[name].has_ended:
                engine.trips[f"{name}-{num_sent}-{elapsed}"] = engine.trips[name]
                engine.submit(name, [5, 6, 7], refs[index], num_tokens=1000)
        if not engine.step():
            engine.wait(0.001)
    return [
        after - before
        for name, trip in engine.trips.items()
        if name.startswith("background-0")
        for before, after in itertools.pairwise(trip.token_times)
    ]


def neighbour(scale: float) -> None:
    """Open loop: quiet tenants at 0.8 of their share of the capacity, beside one more tenant that
    keeps to its share, and beside the same one at ten times its share, over a hundred adapters."""
    model = random_model(model_config(hidden_size=256, num_layers=4))
    size = adapter_bytes(model)
    seconds = max(3.0, 20 * scale)
    with tempfile.TemporaryDirectory() as folder:
        refs = write_adapters(Path(folder), model, NUM_QUIET + 100)
        options = {
            "adapter_pool_bytes": DEVICE_SLOTS * size,
            "host_adapter_bytes": HOST_SLOTS * size,
            "max_num_sequences": 16,
        }
        with LocalEngine(model, **options) as engine:
            share = capacity(engine, refs) / (NUM_QUIET + 1)
        waits = {}
        for kind, times in (("alone", 0), ("isolated", 1), ("beside_noisy", NOISY_SHARE)):
            with LocalEngine(model, **options) as engine:
                for index, ref in enumerate(refs):
                    engine.submit(f"warm-{index}", [1, 2, 3], ref, num_tokens=1)
                engine.run(lambda: False)
                waits[kind] = quiet_waits(engine, refs, seconds, 0.8 * share, times * share)
    p99 = {kind: percentile(values, 99) for kind, values in waits.items()}
    report(
        case="neighbour",
        requests_per_second_share=round(share, 2),
        num_quiet_requests={kind: len(values) for kind, values in waits.items()},
        quiet_first_token_p50_ms={k: milliseconds(percentile(v, 50)) for k, v in waits.items()},
        quiet_first_token_p99_ms={k: milliseconds(v) for k, v in p99.items()},
        p99_over_isolated=round(p99["beside_noisy"] / p99["isolated"], 2),
        p99_over_alone=round(p99["beside_noisy"] / p99["alone"], 2),
    )


def capacity(engine: LocalEngine, refs: Sequence[object]) -> float:
    """Requests a second when there are always more."""
    num_requests = 200
    for index in range(num_requests):
        engine.submit(str(index), [1, 2, 3, 4], refs[index % NUM_QUIET], num_tokens=16)
    started = time.perf_counter()
    engine.run(lambda: False)
    return num_requests / (time.perf_counter() - started)


def quiet_waits(
    engine: LocalEngine,
    refs: Sequence[object],
    seconds: float,
    quiet_rate: float,
    noisy_rate: float,
) -> list[float]:
    """First-token times of the quiet tenants' requests. The noisy one cycles a hundred adapters."""
    rng = random.Random(3)
    clients = [(f"quiet-{index}", quiet_rate) for index in range(NUM_QUIET)]
    clients += [("noisy", noisy_rate)] if noisy_rate else []
    arrivals = sorted(
        (at, name)
        for name, rate in clients
        for at in itertools.takewhile(
            lambda at: at < seconds,
            itertools.accumulate(iter(lambda rate=rate: rng.expovariate(rate), None)),
        )
    )
    upcoming = iter(arrivals)
    following = next(upcoming, None)
    started = time.perf_counter()
    num_sent = 0
    while following is not None or any(
        not trip.has_ended for name, trip in engine.trips.items() if name.startswith("quiet")
    ):
        while following is not None and following[0] <= time.perf_counter() - started:
            tenant = following[1]
            number = NUM_QUIET + num_sent % 100 if tenant == "noisy" else int(tenant[6:])
            engine.submit(
                f"{tenant}:{num_sent}", [1, 2, 3, 4], refs[number], num_tokens=16, tenant=tenant
            )
            num_sent += 1
            following = next(upcoming, None)
        if not engine.step():
            engine.wait(0.0005)
    return [t.first_token_seconds for n, t in engine.trips.items() if n.startswith("quiet")]


def recent(trips: dict[str, Trip]) -> list[Trip]:
    """The trips that may still be open, of a closed loop."""
    return list(itertools.islice(reversed(trips.values()), 20 * CONCURRENCY))


def percentile(values: Sequence[float], percent: int) -> float:
    """Linear between closest ranks."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(percent / 100))


def milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 2)


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmRSS in /proc")


def report(**figures: object) -> None:
    cpu = next(
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    device = {"device": cpu, "threads": torch.get_num_threads()}
    print(json.dumps({**figures, **device, "versions": versions}), flush=True)


CASES = {"policy": policy, "zipf": zipf, "churn": churn, "neighbour": neighbour}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the adapter exchange on a CPU.")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--scale", type=float, default=1.0, help="of requests, adapters, seconds")
    parser.add_argument("--threads", type=int, default=1, help="of the forward pass")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    configure_logging("warning", as_json=False)
    prepare_interpreter()
    for name in args.cases.split(","):
        CASES[name](args.scale)
    return 0


if __name__ == "__main__":
    sys.exit(main())
