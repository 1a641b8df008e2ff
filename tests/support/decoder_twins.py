"""The element-wise kernels and their torch twin on one device, and how near they must be."""

from dataclasses import dataclass

import pytest
import torch

from devices import DEVICES
from lorax_serve.kernels.decoder_kernels import DecoderKernels
from lorax_serve.kernels.torch_decoder_kernels import TorchDecoderKernels
from lorax_serve.kernels.triton.decoder_kernels import TritonDecoderKernels

EPS = 1e-5
# Of the norm of the difference. Rounding in one place more or less gives 2e-4 and 2e-3 in 16 bits.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 4e-4}

# The interpreter's bf16 is not the GPU's.
_DTYPES = {
    "interpreter": (torch.float32, torch.float16),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}
PLACES = tuple(
    pytest.param(*device.values, dtype, id=f"{device.id}-{dtype}", marks=device.marks)
    for device in DEVICES
    for dtype in _DTYPES[str(device.id)]
)
GPU_BF16 = pytest.param(torch.device("cuda"), torch.bfloat16, id="cuda", marks=pytest.mark.gpu)


@dataclass(frozen=True)
class Twins:
    kernels: DecoderKernels
    twin: DecoderKernels

    @classmethod
    def on(cls, device: torch.device) -> "Twins":
        return cls(TritonDecoderKernels(EPS), TorchDecoderKernels(torch.tensor(EPS, device=device)))


def normal(
    *shape: int, device: torch.device, dtype: torch.dtype, seed: int, scale: float = 1.0
) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return (torch.randn(shape, generator=generator, device=device) * scale).to(dtype)
