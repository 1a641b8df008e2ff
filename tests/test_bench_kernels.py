"""The kernel benchmark: refusal without a GPU, floors, and one measured line on a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "bench_kernels.py"
sys.path.insert(0, str(SCRIPT.parent))

import bench_kernels  # noqa: E402
from kernel_cases.case import Case  # noqa: E402


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_says_in_a_sentence_that_there_is_no_gpu() -> None:
    done = run(CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bench_kernels measures GPU kernels: it needs a CUDA device.\n"


def test_the_floor_is_the_longer_of_bytes_and_flops() -> None:
    rates = bench_kernels.Rates(bytes_per_us=10.0, flops_per_us=100.0)
    assert rates.floor_us(Case("k", {}, 50, 100, lambda device: [])) == 5.0
    assert rates.floor_us(Case("k", {}, 50, 900, lambda device: [])) == 9.0


def test_every_case_is_named_once_and_has_a_floor() -> None:
    cases = bench_kernels.all_cases()
    keys = [(case.name, tuple(case.shape.items())) for case in cases]
    assert len(set(keys)) == len(keys)
    assert all(case.bytes > 0 for case in cases)


@pytest.mark.gpu
def test_prints_the_rates_and_a_line_for_each_shape(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [case for case in bench_kernels.all_cases() if case.name == "silu_mul"]
    bench_kernels.measure(cases)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kernel"] for line in lines] == ["device_copy", "matmul"] + ["silu_mul"] * 4
    for line in lines:
        assert set(line) >= {"shape", "us", "floor_us", "share_of_floor", "device", "versions"}
        assert 0 < line["share_of_floor"] < 1.1  # the outputs' last bytes may rest in L2
