"""Where a kernel test runs: Triton's interpreter on the CPU, or a GPU."""

import pytest
import torch

DEVICES = (
    pytest.param(torch.device("cpu"), id="interpreter"),
    pytest.param(torch.device("cuda"), id="cuda", marks=pytest.mark.gpu),
)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """`|got - expected| / |expected|` in float64; NaN anywhere gives NaN."""
    difference = got.double().cpu() - expected.double().cpu()
    return float(difference.norm() / expected.double().cpu().norm().clamp(min=1e-30))
