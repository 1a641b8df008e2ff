"""Root-mean-square layer norm, plain torch.

Formula: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467. The mean and
its root are taken in float32 whatever the input; the result is rounded to the input's dtype before
the weight is applied, as published models were trained.

Legend: H normalised features.
"""

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`y = x / sqrt(mean(x^2) + eps) * weight` over the last dimension.

    x [..., H]; weight [H], or any shape that broadcasts to x; returns a new tensor like x.
    """
    # vector_norm is one pass over x; pow, mean and rsqrt in a row cost twice as much on a CPU.
    norm: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse_rms = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * inverse_rms).to(x.dtype).mul_(weight)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """`residual += x` in place, then the norm of the sum.

    x, residual [T, H]; weight [H]; returns a new tensor [T, H].
    """
    return rms_norm(residual.add_(x), weight, eps)
