"""Cases in which adapters travel between files, host and device; see scripts/bench_engine.py.

Every request of a case is given before the first step, like those of the other cases.
"""

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from engine_bench.bench import Bench, Run, adapter_layout
from engine_bench.workloads import CASES, Case

from lorax_serve.ipc.types import AdapterRef

TRAFFIC = Case("exchange", 512, 64, 128)
FIRST_TOUCH = Case("first_touch", 0, 64, 1)
FIRST_USE = Case("first_use", 1, 64, 1)
NUM_FIRST_USES = 60
NUM_COPIES = 20
LOADS_PER_SECOND = 20.0
NUM_BACKGROUND = 8  # adapters of the requests beside which others are loaded
NUM_ROUNDS = 3  # one has 256 decodes, of which the third longest would decide alone

Figures = dict[str, object]


def exchange_figures(
    bench: Bench,
    refs: Sequence[AdapterRef],
    unseen: Sequence[AdapterRef],
    *,
    rank: int,
    num_places: int,
) -> Iterator[Figures]:
    """`refs` and `unseen` are folders that nothing was read from yet; about `num_places` of them
    fit on the device.
    """
    yield first_touch(bench, refs)
    bench.run(replace(TRAFFIC, num_output=4), refs[:num_places])
    resident = bench.run(TRAFFIC, refs[:num_places])
    yield traffic_figures(bench, "resident", resident, resident)
    for name, weights in (("zipf", zipf(len(refs))), ("uniform", [1.0] * len(refs))):
        picks = random.Random(1).choices(refs, weights, k=TRAFFIC.num_requests)
        yield traffic_figures(bench, name, bench.run(TRAFFIC, picks), resident, picks)
    yield copies(bench, refs, rank)
    yield first_uses(bench, refs)
    yield loads_beside_decodes(bench, refs, unseen)


def population_figures(bench: Bench, refs: Sequence[AdapterRef], name: str) -> Iterator[Figures]:
    """Zipf 1.0 over adapters that are all on the host, then the base model for comparison."""
    picks = random.Random(1).choices(refs, zipf(len(refs)), k=TRAFFIC.num_requests)
    bench.run(TRAFFIC, picks)
    run = bench.run(TRAFFIC, picks)
    base = bench.run(TRAFFIC, [None])
    yield traffic_figures(bench, name, run, base, picks)


def zipf(number: int) -> list[float]:
    """Exponent 1."""
    return [1 / rank for rank in range(1, number + 1)]


def first_touch(bench: Bench, refs: Sequence[AdapterRef]) -> Figures:
    run = bench.run(replace(FIRST_TOUCH, num_requests=len(refs)), refs)
    return {
        "traffic": "first_touch",
        "adapters": len(refs),
        "seconds": round(run.seconds, 3),
        "ttft_s_p50": round(percentile(run.first_tokens, 0.5), 3),
        "ttft_s_p99": round(percentile(run.first_tokens, 0.99), 3),
    }


def traffic_figures(
    bench: Bench, name: str, run: Run, compared: Run, picks: Sequence[AdapterRef] = ()
) -> Figures:
    rate, other = run.num_tokens / run.seconds, compared.num_tokens / compared.seconds
    return {
        "traffic": name,
        "distinct_adapters": len(set(picks)),
        "out_tok_s": round(rate, 1),
        "ratio": round(rate / other, 4),
        "ttft_s_p50": round(percentile(run.first_tokens, 0.5), 3),
        "ttft_s_p99": round(percentile(run.first_tokens, 0.99), 3),
        "step_ms_p50": round(1000 * percentile(run.steps, 0.5), 3),
        "step_ms_p99": round(1000 * percentile(run.steps, 0.99), 3),
        "num_steps": len(run.steps),
        "num_copies": bench.parts.exchange.counts.num_copies,
    }


def copies(bench: Bench, refs: Sequence[AdapterRef], rank: int) -> Figures:
    """Adapters from host to device on an idle engine, until the loop knows that they are there: a
    few on each other's heels, as the engine does it, and one at a time.
    """
    num_bytes = adapter_layout(bench.model, rank).num_elements * bench.model.embedding.itemsize
    exchange = bench.parts.exchange
    digests = dict(exchange.digests())
    away = [ref for ref in reversed(refs) if exchange.pool.find(digests[ref]) is None]
    several, single = away[: 4 * NUM_COPIES], away[4 * NUM_COPIES :][:NUM_COPIES]
    rates = {
        "gb_s_p50": [
            num_bytes / copy_seconds(bench, several[first : first + 4])
            for first in range(0, len(several), 4)
        ],
        "one_at_a_time_gb_s_p50": [num_bytes / copy_seconds(bench, [ref]) for ref in single],
    }
    return {
        "traffic": "copy",
        "num_copies": len(several) + len(single),
        **{name: round(statistics.median(each) / 1e9, 1) for name, each in rates.items()},
    }


def copy_seconds(bench: Bench, refs: Sequence[AdapterRef]) -> float:
    """What one of them takes."""
    exchange = bench.parts.exchange
    before = exchange.counts.num_copies
    bench.synchronize()
    started = time.perf_counter()
    exchange.stage(dict.fromkeys(refs))
    while exchange.num_arriving:
        exchange.poll()
    seconds = time.perf_counter() - started
    assert exchange.counts.num_copies == before + len(refs), "they were not on the host, or away"
    return seconds / len(refs)


def first_uses(bench: Bench, refs: Sequence[AdapterRef]) -> Figures:
    """Time to first token of lone requests: adapter on the host, and again, on the device."""
    exchange = bench.parts.exchange
    cold, warm = [], []
    for ref in random.Random(2).choices(refs, k=4 * NUM_FIRST_USES):
        before = exchange.counts.num_copies
        first = bench.run(FIRST_USE, [ref]).first_tokens[0]
        if exchange.counts.num_copies > before:
            cold.append(first)
            warm.append(bench.run(FIRST_USE, [ref]).first_tokens[0])
        if len(cold) == NUM_FIRST_USES:
            break
    figures = {
        f"{name}_ms_p{share}": round(1000 * percentile(sorted(times), share / 100), 3)
        for name, times in (("on_host", cold), ("on_device", warm))
        for share in (50, 99)
    }
    added = sorted(1000 * (c - w) for c, w in zip(cold, warm, strict=True))
    return {
        "traffic": "first_use",
        "trials": len(cold),
        **figures,
        "added_ms_p50": round(percentile(added, 0.5), 3),
        "added_ms_p99": round(percentile(added, 0.99), 3),
    }


def loads_beside_decodes(
    bench: Bench, refs: Sequence[AdapterRef], unseen: Sequence[AdapterRef]
) -> Figures:
    """Never-seen adapters loaded from files to the device, beside steady decodes; by turns with the
    same decodes alone.
    """
    background = refs[:NUM_BACKGROUND]
    bench.run(replace(CASES["decode"], num_output=4), background)
    calm, busy = [], []
    num_asked = num_arrived = 0
    for first in range(NUM_ROUNDS):
        calm.append(bench.run(CASES["decode"], background))
        arrivals = Arrivals(bench, unseen[first::NUM_ROUNDS])
        busy.append(bench.run(CASES["decode"], background, arrivals.poll))
        num_asked += arrivals.num_asked
        num_arrived += arrivals.num_arrived
    calm_seconds, busy_seconds = (sum(run.seconds for run in runs) for runs in (calm, busy))
    p99_calm, p99_busy = (
        percentile([step for run in runs for step in run.decodes], 0.99) for runs in (calm, busy)
    )
    return {
        "traffic": "loads_beside_decodes",
        "loads_s": round(num_asked / busy_seconds, 1),
        "num_arrived": num_arrived,
        "throughput_ratio": round(calm_seconds / busy_seconds, 4),
        "step_ms_p99_calm": round(1000 * p99_calm, 3),
        "step_ms_p99": round(1000 * p99_busy, 3),
        "step_p99_ratio": round(p99_busy / p99_calm, 4),
    }


class Arrivals:
    """Asks for one adapter after another, at a steady rate, until each is on the device."""

    def __init__(self, bench: Bench, refs: Sequence[AdapterRef]) -> None:
        self._exchange = bench.parts.exchange
        self._unasked = list(refs)
        self._awaited: list[AdapterRef] = []
        self._next = time.perf_counter()
        self._num_copies = self._exchange.counts.num_copies
        self.num_asked = 0

    @property
    def num_arrived(self) -> int:
        return self._exchange.counts.num_copies - self._num_copies

    def poll(self) -> None:
        while self._unasked and time.perf_counter() >= self._next:
            self._next += 1 / LOADS_PER_SECOND
            ref = self._unasked.pop(0)
            self._exchange.prefetch(ref)
            self._awaited.append(ref)
            self.num_asked += 1
        self._exchange.stage(dict.fromkeys(self._awaited))
        while len(self._awaited) > self.num_asked - self.num_arrived:
            self._awaited.pop(0)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
