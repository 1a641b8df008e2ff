"""Never-seen adapters at a fixed rate beside a steady background decode."""

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from exchange_cases.driver import LocalEngine
from exchange_cases.figures import milliseconds, percentile, report
from exchange_cases.model import adapter_bytes, model_config, random_model, write_adapters
from lorax_serve.ipc.types import AdapterRef


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
    engine: LocalEngine, has_others: bool, refs: Sequence[AdapterRef], seconds: float, rate: int
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
