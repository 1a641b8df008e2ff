"""Lays out a GPU's memory and makes its runner."""

import time
from collections.abc import Callable

import structlog
import torch

from lorax_serve.engine.cuda.attention_choice import (
    choose_attention,
    default_block_size,
    make_attention,
)
from lorax_serve.engine.cuda.memory import graph_bytes, kv_cache_bytes, measure
from lorax_serve.engine.cuda.pinned_memory import pinned_buffer
from lorax_serve.engine.cuda.profile import peak_activation_bytes
from lorax_serve.engine.cuda.runner import CudaRunner
from lorax_serve.engine.cuda.runner_limits import RunnerLimits
from lorax_serve.engine.cuda.slabs import CudaSlabs
from lorax_serve.engine.cuda.step_arrays import StepShape
from lorax_serve.engine.cuda.step_graphs import GRAPHS_A_SHAPE, graph_shapes
from lorax_serve.engine.device_defaults import (
    GPU_ADAPTER_POOL_SHARE,
    StepLimits,
    host_adapter_bytes,
)
from lorax_serve.engine.execution import Execution
from lorax_serve.engine.host_memory import available_bytes
from lorax_serve.engine.kv_cache import KVCache, bytes_per_block
from lorax_serve.engine.memory_plan import plan_memory
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.ipc.config import AttentionBackendName, EngineConfig
from lorax_serve.kernels.attention_backend import AttentionBackend
from lorax_serve.kernels.triton.lora_delta import PROMPT

log = structlog.get_logger(__name__)


def build_cuda_execution(
    config: EngineConfig,
    model: Decoder,
    limits: StepLimits,
    device: torch.device,
    report: Callable[[str, float], None],
) -> Execution:
    """Measure, divide the memory, capture the graphs. Raises ModelRefused."""
    return _Builder(config, model, limits, device).build(report)


class _Builder:
    def __init__(
        self, config: EngineConfig, model: Decoder, limits: StepLimits, device: torch.device
    ) -> None:
        self._config = config
        self._model = model
        self._limits = limits
        self._device = device
        self._dtype = model.embedding.dtype
        name = choose_attention(
            config.attention_backend,
            dtype=self._dtype,
            head_dim=model.config.head_dim,
            block_size=config.block_size,
        )
        self._block_size = config.block_size or default_block_size(name)
        self._attention: AttentionBackend = make_attention(name, device)
        # The torch twin plans each step on the host.
        captures = config.cuda_graphs and name is not AttentionBackendName.TORCH
        self._graph_shapes = (
            graph_shapes(limits.max_num_sequences, limits.max_batch_tokens) if captures else ()
        )
        num_targets = max(len(site.targets) for site in model.sites)
        self._max_site_ranks = num_targets * config.max_adapter_rank
        log.info("attention_backend", name=name.value, block_size=self._block_size)

    def build(self, report: Callable[[str, float], None]) -> Execution:
        model, config = self._model, self._config
        total = torch.cuda.get_device_properties(self._device).total_memory
        pool_bytes = config.adapter_pool_bytes or int(total * GPU_ADAPTER_POOL_SHARE)
        report("Measuring memory", 0.0)
        activations = self._activation_bytes()
        report("Measuring memory", 1.0)
        memory = measure(
            self._device,
            share=config.gpu_memory_share,
            adapters=pool_bytes,
            activations=activations,
            graphs=graph_bytes(GRAPHS_A_SHAPE * len(self._graph_shapes), len(model.layers)),
        )
        per_block = bytes_per_block(model.config, self._block_size, self._dtype)
        plan = plan_memory(
            kv_cache_bytes=kv_cache_bytes(memory, config.kv_cache_bytes, per_block),
            bytes_per_block=per_block,
            block_size=self._block_size,
            max_position_embeddings=model.config.max_position_embeddings,
            requested_len=config.max_model_len,
        )
        log.info("gpu_memory", plan=memory.sums)
        kv_cache = self._kv_cache(plan.num_blocks)
        slabs = self._slabs(pool_bytes)
        host_adapters = self._host_adapters(report)
        runner = self._runner(kv_cache, slabs, plan.max_model_len, self._graph_shapes)
        self._capture(runner, report)
        return Execution(plan, kv_cache, slabs, host_adapters, runner)

    def _host_adapters(self, report: Callable[[str, float], None]) -> torch.Tensor:
        """Before any graph is captured: a capture forbids it, and later it would stop the loop."""
        available = available_bytes()
        num_bytes = host_adapter_bytes(self._config, self._device, available)
        report("Pinning host memory", 0.0)
        log.info("host_adapter_memory", num_bytes=num_bytes, available_bytes=available)
        buffer = pinned_buffer(num_bytes, self._dtype)
        report("Pinning host memory", 1.0)
        return buffer

    def _capture(self, runner: CudaRunner, report: Callable[[str, float], None]) -> None:
        free, _ = torch.cuda.mem_get_info(self._device)
        started = time.perf_counter()
        runner.capture(lambda fraction: report("Capturing CUDA graphs", fraction))
        taken = free - torch.cuda.mem_get_info(self._device)[0]
        log.info(
            "cuda_graphs",
            shapes=len(self._graph_shapes),
            seconds=round(time.perf_counter() - started, 2),
            num_bytes=taken,
        )

    def _activation_bytes(self) -> int:
        """Of the largest step, run on a KV cache of one block; its LoRA scratch by arithmetic."""
        max_len = self._config.max_model_len or self._model.config.max_position_embeddings
        slabs = self._slabs(1)
        runner = self._runner(self._kv_cache(1), slabs, max_len, ())
        peak = peak_activation_bytes(
            runner,
            self._limits,
            max_model_len=max_len,
            block_size=self._block_size,
            device=self._device,
        )
        num_tokens = self._limits.max_batch_tokens
        return peak + slabs.weights.partials(PROMPT, num_tokens, self._max_site_ranks).nbytes

    def _kv_cache(self, num_blocks: int) -> KVCache:
        return KVCache(
            self._model.config,
            num_blocks,
            self._block_size,
            dtype=self._dtype,
            device=self._device,
        )

    def _slabs(self, capacity_bytes: int) -> CudaSlabs:
        return CudaSlabs(
            self._model.sites,
            capacity_bytes=capacity_bytes,
            dtype=self._dtype,
            device=self._device,
        )

    def _runner(
        self,
        kv_cache: KVCache,
        slabs: CudaSlabs,
        max_model_len: int,
        shapes: tuple[StepShape, ...],
    ) -> CudaRunner:
        limits = RunnerLimits(
            max_num_sequences=self._limits.max_num_sequences,
            max_batch_tokens=self._limits.max_batch_tokens,
            max_model_len=max_model_len,
            max_site_ranks=self._max_site_ranks,
        )
        return CudaRunner(self._model, kv_cache, slabs, self._attention, limits, shapes)
