"""What a device can do, the least a case must cost there, and what its kernels did take."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from engine_bench.bench import Bench
from engine_bench.workloads import Case

COPY_BYTES = 4 * 2**30
MATMUL_SIZE = 8192


@dataclass(frozen=True, slots=True)
class Rates:
    """What this device does at best, measured in this run."""

    bytes_per_second: float  # of a large copy, read and written
    flops_per_second: float  # of a large bf16 matrix product

    @classmethod
    def measured(cls) -> "Rates":
        source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        copy_seconds = _best_seconds(lambda: target.copy_(source))
        a, b = (
            torch.randn(MATMUL_SIZE, MATMUL_SIZE, dtype=torch.bfloat16, device="cuda")
            for _ in range(2)
        )
        matmul_seconds = _best_seconds(lambda: a @ b)
        return cls(2 * COPY_BYTES / copy_seconds, 2 * MATMUL_SIZE**3 / matmul_seconds)


def _best_seconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start, end = _event(), _event()
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return float(min(times))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def floor_seconds(bench: Bench, case: Case, num_adapters: int, rates: Rates) -> float:
    """Bytes that the decode steps must read, at the copy's rate, then the prompts' FLOPs in the
    linear layers, at the matmul's.
    """
    config = bench.model_config
    num_linear = bench.model.num_parameters - config.vocab_size * config.hidden_size
    kv_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * config.dtype.itemsize
    batch = min(case.num_requests, bench.parts.info.max_num_sequences)
    num_steps = case.num_requests * case.num_output / batch
    context = case.num_prompt + case.num_output / 2
    adapters = min(num_adapters, batch) * statistics.fmean(bench.adapter_bytes or [0])
    step_bytes = num_linear * config.dtype.itemsize + batch * context * kv_token + adapters
    num_prompt = case.num_requests * case.num_prompt
    num_head = config.vocab_size * config.hidden_size  # only a prompt's last row meets the head
    prompt_flops = 2 * num_prompt * (num_linear - num_head)
    return num_steps * step_bytes / rates.bytes_per_second + prompt_flops / rates.flops_per_second


class DeviceTimeline:
    """The kernels of a run, by torch's profiler, which slows the host down."""

    def __init__(self, run: Callable[[], object]) -> None:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
        self._events: Sequence[Any] = [
            event for event in profiler.events() if event.device_type.name == "CUDA"
        ]

    def idle_share(self) -> float:
        """Of the time from the first kernel to the last, that in which none ran."""
        spans = sorted((event.time_range.start, event.time_range.end) for event in self._events)
        busy, reached = 0.0, 0.0
        for start, end in spans:
            busy += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return float(1 - busy / (spans[-1][1] - spans[0][0]))

    def longest(self, number: int) -> dict[str, tuple[float, int]]:
        """Kernels with the longest times: milliseconds in all, and how often they ran."""
        times: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for event in self._events:
            name = str(event.name).split("(")[0].split("<")[0][:60]
            times[name] += event.time_range.end - event.time_range.start
            counts[name] += 1
        return {name: (time / 1000, counts[name]) for name, time in times.most_common(number)}
