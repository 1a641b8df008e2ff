"""Cases whose adapters are all on the device beforehand; see scripts/bench_engine.py."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from engine_bench.bench import Bench
from engine_bench.device_time import DeviceTimeline, Rates, floor_seconds
from engine_bench.workloads import CASES, Case

from lorax_serve.ipc.types import AdapterRef

WARM_UP_OUTPUT = 4  # tokens
PROFILED_OUTPUT = 48
NUM_LISTED_KERNELS = 24


def resident_figures(
    bench: Bench,
    refs: Sequence[AdapterRef],
    rates: Rates,
    *,
    cases: Sequence[str],
    counts: Sequence[int],
    list_kernels: bool,
) -> Iterator[dict[str, object]]:
    """One entry for each case and number of adapters, the first number being what the others are
    compared with.
    """
    for name in cases:
        base: float | None = None
        for count in counts:
            adapters: list[AdapterRef | None] = [*refs[:count]] or [None]
            rate, figures = measure(bench, CASES[name], adapters, rates, list_kernels=list_kernels)
            base = base or rate
            retention = round(rate / base, 4)
            yield {"case": name, "adapters": count, "retention": retention, **figures}


def measure(
    bench: Bench, case: Case, adapters: list[AdapterRef | None], rates: Rates, *, list_kernels: bool
) -> tuple[float, dict[str, object]]:
    """Output tokens a second, and what else is said about the case."""
    bench.run(replace(case, num_output=WARM_UP_OUTPUT), adapters)
    run = bench.run(case, adapters)
    profiled = replace(case, num_output=min(PROFILED_OUTPUT, case.num_output))
    timeline = DeviceTimeline(partial(bench.run, profiled, adapters))
    steps = sorted(run.steps)
    figures: dict[str, object] = {
        "out_tok_s": round(run.num_tokens / run.seconds, 1),
        "step_ms_p50": round(1000 * steps[len(steps) // 2], 3),
        "step_ms_p99": round(1000 * steps[int(len(steps) * 0.99)], 3),
        "gpu_idle_share": round(timeline.idle_share(), 4),
        "roofline_share": round(
            floor_seconds(bench, case, len(set(adapters) - {None}), rates) / run.seconds, 4
        ),
        "num_steps": len(steps),
        "num_eager_decodes": run.num_eager_decodes,
    }
    if list_kernels:
        figures["kernels_ms_and_calls"] = timeline.longest(NUM_LISTED_KERNELS)
        figures["profiled_output"] = profiled.num_output
    return run.num_tokens / run.seconds, figures
