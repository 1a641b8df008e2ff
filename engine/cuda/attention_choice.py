"""Which attention a GPU engine uses."""

import importlib.util

import torch

from lorax_serve.engine.errors import ModelRefused
from lorax_serve.ipc.config import AttentionBackendName
from lorax_serve.kernels.attention_backend import AttentionBackend
from lorax_serve.kernels.flash_support import BLOCK_MULTIPLE, supports
from lorax_serve.kernels.torch_attention import TorchAttention
from lorax_serve.kernels.triton.attention import TritonAttention

TRITON_BLOCK_SIZE = 64


def choose_attention(
    wanted: AttentionBackendName, *, dtype: torch.dtype, head_dim: int, block_size: int | None
) -> AttentionBackendName:
    """Turn AUTO into a choice; raises ModelRefused when what was asked for cannot be had."""
    if wanted is not AttentionBackendName.AUTO and wanted is not AttentionBackendName.FLASH:
        return wanted
    obstacle = supports(dtype, head_dim, block_size or BLOCK_MULTIPLE)
    if importlib.util.find_spec("flash_attn") is None:
        obstacle = "the package flash-attn is not installed"
    if obstacle is None:
        return AttentionBackendName.FLASH
    if wanted is AttentionBackendName.FLASH:
        raise ModelRefused(f"--attention-backend flash cannot be used: {obstacle}.")
    return AttentionBackendName.TRITON


def default_block_size(name: AttentionBackendName) -> int:
    return BLOCK_MULTIPLE if name is AttentionBackendName.FLASH else TRITON_BLOCK_SIZE


def make_attention(name: AttentionBackendName, device: torch.device) -> AttentionBackend:
    if name is AttentionBackendName.FLASH:
        # Importing it takes a second and needs the package.
        from lorax_serve.kernels.flash_attention import FlashAttention

        return FlashAttention()
    if name is AttentionBackendName.TRITON:
        return TritonAttention(torch.cuda.get_device_properties(device).multi_processor_count)
    return TorchAttention()
