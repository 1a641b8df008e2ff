"""The one place where a matrix of the model is applied.

Legend: T rows, I input features, O output features.
"""

import enum
from dataclasses import dataclass

import torch

from lorax_serve.kernels.lora import LoraDelta, LoraSite


class WeightLayout(enum.Enum):
    """How a weight, always [O, I] to the eye, lies in memory."""

    ROW_MAJOR = "row_major"
    # [I, O] in memory: CPU matrix products of 4 to 32 rows are about twice as fast this way, and
    # those of one row no slower.
    TRANSPOSED = "transposed"


@dataclass(frozen=True, slots=True)
class Linear:
    """`y = x W^T + b`, plus what each row's adapter adds at this site."""

    weight: torch.Tensor  # [O, I]
    bias: torch.Tensor | None  # [O]
    site: LoraSite

    def __call__(self, x: torch.Tensor, lora: LoraDelta | None) -> torch.Tensor:
        """x [T, I] -> [T, O]."""
        if lora is None:
            return torch.nn.functional.linear(x, self.weight, self.bias)
        shrunk = lora.shrink(x, self.site)
        y = torch.nn.functional.linear(x, self.weight, self.bias)
        shrunk.expand_into(y)
        return y


def empty_weight(
    out_features: int,
    in_features: int,
    *,
    layout: WeightLayout,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Uninitialised [O, I] in the given layout."""
    if layout is WeightLayout.ROW_MAJOR:
        return torch.empty(out_features, in_features, dtype=dtype, device=device)
    return torch.empty(in_features, out_features, dtype=dtype, device=device).t()
