"""The norm kernels against their torch twin."""

import pytest
import torch

from decoder_twins import GPU_BF16, PLACES, TOLERANCE, Twins, normal
from devices import relative_error

SHAPES = [(1, 64), (3, 576), (2, 4096), (5, 100), (1, 16384)]
LARGE = [(1, 4096), (256, 4096), (16384, 4096), (2048, 16384)]


def check_rms_norm(device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x = normal(*shape, device=device, dtype=dtype, seed=0, scale=3.0)
    weight = normal(shape[1], device=device, dtype=dtype, seed=1)
    twins = Twins.on(device)
    x_before = x.clone()
    y = twins.kernels.rms_norm(x, weight)
    assert y.dtype == dtype
    assert torch.equal(x, x_before)
    assert relative_error(y, twins.twin.rms_norm(x, weight)) < TOLERANCE[dtype]


def check_add_rms_norm(device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, residual = (normal(*shape, device=device, dtype=dtype, seed=s, scale=3.0) for s in (0, 1))
    weight = normal(shape[1], device=device, dtype=dtype, seed=2)
    twins = Twins.on(device)
    x_before, expected_residual = x.clone(), residual.clone()
    y = twins.kernels.add_rms_norm(x, residual, weight)
    expected = twins.twin.add_rms_norm(x, expected_residual, weight)
    assert torch.equal(x, x_before)
    assert torch.equal(residual, expected_residual)
    assert relative_error(y, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_rms_norm(device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    check_rms_norm(device, dtype, shape)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize(("device", "dtype"), [GPU_BF16])
def test_rms_norm_large(device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    check_rms_norm(device, dtype, shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_add_rms_norm(device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    check_add_rms_norm(device, dtype, shape)


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize(("device", "dtype"), [GPU_BF16])
def test_add_rms_norm_large(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    check_add_rms_norm(device, dtype, shape)


@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_rows_may_be_strided(device: torch.device, dtype: torch.dtype) -> None:
    wide = normal(4, 3 * 64, device=device, dtype=dtype, seed=0)
    weight = normal(64, device=device, dtype=dtype, seed=1)
    twins = Twins.on(device)
    y = twins.kernels.rms_norm(wide[:, 64:128], weight)
    assert relative_error(y, twins.twin.rms_norm(wide[:, 64:128], weight)) < TOLERANCE[dtype]


@pytest.mark.parametrize("scale", [1e-4, 0.0, 200.0])
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_magnitudes(device: torch.device, dtype: torch.dtype, scale: float) -> None:
    """Below the root of eps, zero, and where the square overflows 16 bits."""
    x = normal(2, 128, device=device, dtype=dtype, seed=0, scale=scale)
    weight = normal(128, device=device, dtype=dtype, seed=1)
    twins = Twins.on(device)
    expected = twins.twin.rms_norm(x, weight)
    assert relative_error(twins.kernels.rms_norm(x, weight), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize(("num_heads", "head_dim"), [(1, 64), (4, 128), (9, 96), (32, 16)])
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_heads_are_normalised_within_wider_rows(
    device: torch.device, dtype: torch.dtype, num_heads: int, head_dim: int
) -> None:
    rows = normal(3, num_heads + 3, head_dim, device=device, dtype=dtype, seed=0, scale=2.0)
    weight = normal(head_dim, device=device, dtype=dtype, seed=1)
    expected = rows.clone()
    twins = Twins.on(device)
    twins.kernels.rms_norm_heads_(rows[:, 2 : 2 + num_heads], weight)
    twins.twin.rms_norm_heads_(expected[:, 2 : 2 + num_heads], weight)
    assert relative_error(rows, expected) < TOLERANCE[dtype]
    for others in (slice(0, 2), slice(2 + num_heads, None)):
        assert torch.equal(rows[:, others], expected[:, others])


@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_a_rows_bits_do_not_depend_on_the_batch(device: torch.device, dtype: torch.dtype) -> None:
    x = normal(4, 320, device=device, dtype=dtype, seed=0)
    weight = normal(320, device=device, dtype=dtype, seed=1)
    kernels = Twins.on(device).kernels
    together = kernels.rms_norm(x, weight)
    x[0] = x[3] = float("nan")
    assert torch.equal(kernels.rms_norm(x, weight)[1:3], together[1:3])
    assert torch.equal(kernels.rms_norm(x[2:3], weight), together[2:3])
