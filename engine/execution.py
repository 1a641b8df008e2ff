"""Everything that runs steps on one device, and how much of it there is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorax_serve.engine.adapters.slab_memory import SlabMemory, TorchSlabs
from lorax_serve.engine.core import StepRunner
from lorax_serve.engine.device_defaults import (
    CPU_ADAPTER_POOL_BYTES,
    CPU_KV_CACHE_BYTES,
    StepLimits,
    host_adapter_bytes,
    require_fits,
)
from lorax_serve.engine.errors import ModelRefused
from lorax_serve.engine.host_memory import available_bytes
from lorax_serve.engine.kv_cache import KVCache, bytes_per_block
from lorax_serve.engine.memory_plan import MemoryPlan, plan_memory
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.runner import Runner
from lorax_serve.ipc.config import AttentionBackendName, EngineConfig
from lorax_serve.kernels.torch_attention import TorchAttention

_CPU_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Execution:
    plan: MemoryPlan
    kv_cache: KVCache
    slabs: SlabMemory
    host_adapters: torch.Tensor  # [num_elements], of the slabs' dtype: all of the host tier
    runner: StepRunner


def build_execution(
    config: EngineConfig,
    model: Decoder,
    limits: StepLimits,
    device: torch.device,
    report: Callable[[str, float], None],
) -> Execution:
    """Lay out the memory of a loaded model and make its runner. Raises ModelRefused."""
    if device.type == "cuda":
        # A process without a GPU never imports Triton.
        from lorax_serve.engine.cuda.execution import build_cuda_execution

        return build_cuda_execution(config, model, limits, device, report)
    return _build_cpu_execution(config, model, device)


def _build_cpu_execution(config: EngineConfig, model: Decoder, device: torch.device) -> Execution:
    if config.attention_backend not in (AttentionBackendName.AUTO, AttentionBackendName.TORCH):
        raise ModelRefused(
            f"--attention-backend {config.attention_backend.value} needs a GPU; a CPU has torch."
        )
    # Pages that nothing was written to take no memory yet, so the system may grant what it does not
    # have, and kill the engine once requests fill it.
    available = available_bytes()
    require_fits("--kv-cache-memory", config.kv_cache_bytes or 0, available)
    require_fits("--adapter-memory", config.adapter_pool_bytes or 0, available)
    dtype = model.embedding.dtype
    block_size = config.block_size or _CPU_BLOCK_SIZE
    plan = plan_memory(
        kv_cache_bytes=config.kv_cache_bytes or CPU_KV_CACHE_BYTES,
        bytes_per_block=bytes_per_block(model.config, block_size, dtype),
        block_size=block_size,
        max_position_embeddings=model.config.max_position_embeddings,
        requested_len=config.max_model_len,
    )
    kv_cache = KVCache(model.config, plan.num_blocks, block_size, dtype=dtype, device=device)
    slabs = TorchSlabs(
        model.sites,
        capacity_bytes=config.adapter_pool_bytes or CPU_ADAPTER_POOL_BYTES,
        dtype=dtype,
        device=device,
    )
    num_host_bytes = host_adapter_bytes(config, device, available)
    host_adapters = torch.empty(num_host_bytes // dtype.itemsize, dtype=dtype)
    runner = Runner(model, kv_cache, slabs, TorchAttention())
    return Execution(plan, kv_cache, slabs, host_adapters, runner)
