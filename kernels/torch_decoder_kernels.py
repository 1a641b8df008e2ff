"""The element-wise parts of a decoder layer in plain torch: the CPU's, and the GPU's twin."""

from dataclasses import dataclass

import torch

from lorax_serve.kernels import activation, norm
from lorax_serve.kernels.paged_attention import write_kv
from lorax_serve.kernels.rope import Rotation, apply_rope_


@dataclass(frozen=True, slots=True)
class TorchDecoderKernels:
    """DecoderKernels for tensors of any device."""

    eps: torch.Tensor  # [] float32, on the device

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return norm.rms_norm(x, weight, self.eps)

    def rms_norm_heads_(self, heads: torch.Tensor, weight: torch.Tensor) -> None:
        heads.copy_(norm.rms_norm(heads, weight, self.eps))

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
        """See DecoderKernels, except that every slot must be 0 or more: rows are padded only for a
        CUDA graph, and torch would write a row of slot -1 to the cache's last place.
        """
        num_kv_heads, head_dim = cache.shape[-2:]
        first_key = qkv.shape[1] - 2 * num_kv_heads
        apply_rope_(qkv[:, : first_key + num_kv_heads], rotation)
        kv = qkv[:, first_key:].view(-1, 2, num_kv_heads, head_dim)
        write_kv(kv, cache, slot_mapping)
