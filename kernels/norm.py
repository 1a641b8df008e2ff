"""Root-mean-square layer norm, plain torch.

Formula: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv 1910.07467. The mean and
its root are taken in float32 whatever the input; the result is rounded to the input's dtype before
the weight is applied, as published models were trained.

Legend: H normalised features.
"""

import torch


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """`y = x / sqrt(mean(x^2) + eps) * weight` over the last dimension.

    x [..., H]; weight [H]; eps [] float32; returns a new tensor like x.
    """
    # A CPU spends most of this on calls: vector_norm is one where pow and mean are two, and a
    # Python scalar in place of eps would cost as much as two more.
    norm: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    inverse_rms = torch.addcmul(eps, norm, norm, value=1.0 / x.shape[-1]).rsqrt_()
    return (x * inverse_rms).to(x.dtype).mul_(weight)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: torch.Tensor
) -> torch.Tensor:
    """`residual += x` in place, then the norm of the sum.

    x, residual [T, H]; weight [H]; eps [] float32; returns a new tensor [T, H].
    """
    return rms_norm(residual.add_(x), weight, eps)
