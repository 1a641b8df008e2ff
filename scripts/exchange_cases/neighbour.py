"""One tenant at ten times its share beside twenty quiet ones; and the quiet ones alone."""

import itertools
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from exchange_cases.driver import LocalEngine
from exchange_cases.figures import milliseconds, percentile, report
from exchange_cases.model import adapter_bytes, model_config, random_model, write_adapters
from exchange_cases.sizes import DEVICE_SLOTS, HOST_SLOTS
from lorax_serve.ipc.types import AdapterRef

NUM_QUIET, NOISY_SHARE = 20, 10


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


def capacity(engine: LocalEngine, refs: Sequence[AdapterRef]) -> float:
    """Requests a second when there are always more."""
    num_requests = 200
    for index in range(num_requests):
        engine.submit(str(index), [1, 2, 3, 4], refs[index % NUM_QUIET], num_tokens=16)
    started = time.perf_counter()
    engine.run(lambda: False)
    return num_requests / (time.perf_counter() - started)


def quiet_waits(
    engine: LocalEngine,
    refs: Sequence[AdapterRef],
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
