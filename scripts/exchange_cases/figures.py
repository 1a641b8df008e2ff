"""Figures of a run, and the lines that show them."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch


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
