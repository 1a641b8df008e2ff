"""Every GPU kernel against the floor that its bytes or its FLOPs set.

    python scripts/bench_kernels.py [--only NAME ...]

Prints one JSON line per kernel and shape: `us`, the median time of a call; `floor_us`, what its
bytes take at the copy bandwidth, or its FLOPs at the matmul rate, whichever is longer;
`share_of_floor`, the second over the first. Both rates are measured first, in this run, and printed
as the lines `device_copy` and `matmul`. Calls are replayed from one CUDA graph, over sets of inputs
that do not fit into L2 together.

To add a kernel: a module in kernel_cases/ with a function `cases()`, named in `all_cases` below.
Exit code 2: there is no CUDA device.
"""

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from math import ceil
from statistics import median

import torch
from kernel_cases.case import Call, Case

MIN_LAUNCHES = 64  # in a graph, so that starting it weighs nothing
NUM_WARMUPS = 3
NUM_REPLAYS = 20
COPY_BYTES = 8_000_000_000  # read once, written once
MATMUL_SIZE = 8192


@dataclass(frozen=True, slots=True)
class Rates:
    """What this device does at best, measured."""

    bytes_per_us: float
    flops_per_us: float

    def floor_us(self, case: Case) -> float:
        return max(case.bytes / self.bytes_per_us, case.flops / self.flops_per_us)


def all_cases() -> list[Case]:
    # Imported here because the kernels need triton, which only a torch with CUDA brings.
    from kernel_cases import attention, elementwise, lora, sampling

    return [case for room in (elementwise, attention, lora, sampling) for case in room.cases()]


def median_us(calls: list[Call], *, min_launches: int = MIN_LAUNCHES) -> float:
    """Time of one call, all of them replayed in turn from one CUDA graph."""
    for call in calls:  # compiles, which a capture may not
        call()
    num_rounds = ceil(min_launches / len(calls))
    graph = torch.cuda.CUDAGraph()
    # Kept through a round: written over one another, they would stay in L2.
    outputs: list[object] = []
    with torch.cuda.graph(graph):
        for _ in range(num_rounds):
            outputs[:] = [call() for call in calls]
    for _ in range(NUM_WARMUPS):
        graph.replay()
    events = [(_event(), _event()) for _ in range(NUM_REPLAYS)]
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    milliseconds = median(start.elapsed_time(end) for start, end in events)
    return float(milliseconds * 1e3 / (num_rounds * len(calls)))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def copy_us(device: torch.device) -> float:
    """Not from a graph: there the driver may use its copy engines, which are slower."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return median(_elapsed_us(lambda: target.copy_(source)) for _ in range(NUM_REPLAYS))


def _elapsed_us(call: Call) -> float:
    start, end = _event(), _event()
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3


def matmul_us(device: torch.device) -> float:
    shape = (MATMUL_SIZE, MATMUL_SIZE)
    a, b = (torch.randn(shape, dtype=torch.bfloat16, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return median_us([lambda: torch.mm(a, b, out=out)], min_launches=8)


class Report:
    """Prints the lines of one device."""

    def __init__(self, device: torch.device) -> None:
        import triton

        self._device = torch.cuda.get_device_name(device)
        self._versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "triton": triton.__version__,
        }

    def line(self, kernel: str, shape: dict[str, int], us: float, floor_us: float) -> None:
        figures = {
            "kernel": kernel,
            "shape": shape,
            "us": round(us, 3),
            "floor_us": round(floor_us, 3),
            "share_of_floor": round(floor_us / us, 4),
            "device": self._device,
            "versions": self._versions,
        }
        print(json.dumps(figures), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the GPU kernels against their floors.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these kernels (default: all)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_kernels measures GPU kernels: it needs a CUDA device.", file=sys.stderr)
        return 2
    cases = all_cases()
    names = {case.name for case in cases}
    if unknown := set(args.only or ()) - names:
        parser.error(f"no kernel {sorted(unknown)}; there are {sorted(names)}")
    measure([case for case in cases if case.name in (args.only or names)])
    return 0


def measure(cases: list[Case]) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    report = Report(device)
    copy, matmul = copy_us(device), matmul_us(device)
    report.line("device_copy", {"bytes": COPY_BYTES}, copy, copy)
    report.line("matmul", {"M": MATMUL_SIZE, "N": MATMUL_SIZE, "K": MATMUL_SIZE}, matmul, matmul)
    rates = Rates(2 * COPY_BYTES / copy, 2 * MATMUL_SIZE**3 / matmul)
    for case in cases:
        us = median_us(case.make(device))
        report.line(case.name, case.shape, us, rates.floor_us(case))
        torch.cuda.empty_cache()  # what a case's graph held is of no size another wants


if __name__ == "__main__":
    sys.exit(main())
