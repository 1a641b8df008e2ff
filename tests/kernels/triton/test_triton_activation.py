"""The gated activation's kernel against its torch twin."""

import pytest
import torch

from decoder_twins import GPU_BF16, PLACES, TOLERANCE, Twins, normal
from devices import relative_error


def check(device: torch.device, dtype: torch.dtype, num_rows: int, num_features: int) -> None:
    gate_up = normal(num_rows, 2 * num_features, device=device, dtype=dtype, seed=0, scale=3.0)
    before = gate_up.clone()
    twins = Twins.on(device)
    y = twins.kernels.silu_mul(gate_up)
    assert y.dtype == dtype
    assert torch.equal(gate_up, before)
    assert relative_error(y, twins.twin.silu_mul(gate_up)) < TOLERANCE[dtype]


@pytest.mark.parametrize(("num_rows", "num_features"), [(1, 64), (3, 1536), (2, 4196), (4, 7)])
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_silu_mul(
    device: torch.device, dtype: torch.dtype, num_rows: int, num_features: int
) -> None:
    check(device, dtype, num_rows, num_features)


@pytest.mark.parametrize("num_rows", [1, 256, 16384])
@pytest.mark.parametrize(("device", "dtype"), [GPU_BF16])
def test_silu_mul_large(device: torch.device, dtype: torch.dtype, num_rows: int) -> None:
    check(device, dtype, num_rows, 14336)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_where_the_exponential_overflows(device: torch.device, dtype: torch.dtype) -> None:
    gates = torch.tensor([[-6e4, -100.0, -20.0, 0.0, 20.0, 6e4]], device=device).to(dtype)
    twins = Twins.on(device)
    gate_up = torch.cat((gates, torch.ones_like(gates)), dim=-1)
    torch.testing.assert_close(twins.kernels.silu_mul(gate_up), twins.twin.silu_mul(gate_up))
