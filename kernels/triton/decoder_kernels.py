"""The element-wise parts of a decoder layer in Triton: one launch each.

They are latency-bound in a decode step and bandwidth-bound in a prompt; none reads a value on the
host, so all may be captured in a CUDA graph once they have been compiled by a first call.
"""

from dataclasses import dataclass

import torch

from lorax_serve.kernels.rope import Rotation
from lorax_serve.kernels.triton import activation, norm, rope


@dataclass(frozen=True, slots=True)
class TritonDecoderKernels:
    """DecoderKernels for float32, float16 and bfloat16 tensors of a GPU; all contiguous, except
    the rows of rms_norm and rms_norm_heads_.
    """

    eps: float

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return norm.rms_norm(x, weight, self.eps)

    def rms_norm_heads_(self, heads: torch.Tensor, weight: torch.Tensor) -> None:
        norm.rms_norm_heads_(heads, weight, self.eps)

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        return norm.add_rms_norm(x, residual, weight, self.eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return activation.silu_mul(gate_up)

    def rope_and_write_kv(
        self,
        qkv: torch.Tensor,
        rotation: Rotation,
        cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        rope.rope_and_write_kv(qkv, rotation, cache, slot_mapping)
