import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from lorax_serve.kernels.norm import add_rms_norm, rms_norm

EPS = torch.tensor(1e-5)


def _oracle(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    norm = LlamaRMSNorm(weight.shape[0], eps=EPS.item()).to(x.dtype)
    with torch.no_grad():
        norm.weight.copy_(weight)
        y: torch.Tensor = norm(x)
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("magnitude", [1e-4, 1.0, 1e3])
def test_rms_norm_equals_transformers(dtype: torch.dtype, magnitude: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(5, 3, 64, generator=generator) * magnitude).to(dtype)
    weight = torch.randn(64, generator=generator).to(dtype)
    torch.testing.assert_close(rms_norm(x, weight, EPS), _oracle(x, weight))


def test_rms_norm_of_zeros_is_zero() -> None:
    assert rms_norm(torch.zeros(2, 8), torch.ones(8), EPS).tolist() == [[0.0] * 8] * 2


def test_add_rms_norm_updates_the_residual_and_leaves_x() -> None:
    generator = torch.Generator().manual_seed(1)
    x, residual = torch.randn(2, 4, 64, generator=generator)
    weight = torch.randn(64, generator=generator)
    x_before, total = x.clone(), x + residual
    y = add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(residual, total)
    assert torch.equal(x, x_before)
    torch.testing.assert_close(y, _oracle(total, weight))
