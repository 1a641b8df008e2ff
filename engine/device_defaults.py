"""What the operator leaves open, filled in by the kind of device."""

from dataclasses import dataclass

import torch

from lorax_serve.engine.errors import ModelRefused
from lorax_serve.ipc.config import EngineConfig

_MIB = 2**20
CPU_KV_CACHE_BYTES = 384 * _MIB
CPU_ADAPTER_POOL_BYTES = 256 * _MIB
GPU_ADAPTER_POOL_SHARE = 0.15  # of the device's memory
HOST_ADAPTER_SHARE = 0.25  # of the host's available memory
CPU_HOST_ADAPTER_BYTES = 512 * _MIB  # at most
GPU_HOST_ADAPTER_BYTES = 32 * 1024 * _MIB  # at most


@dataclass(frozen=True, slots=True)
class StepLimits:
    """How large a step may become."""

    max_num_sequences: int
    max_batch_tokens: int


def step_limits(config: EngineConfig, device: torch.device) -> StepLimits:
    """Raises ModelRefused when not every running request could get a token a step."""
    default_sequences, default_tokens = (64, 512) if device.type == "cpu" else (256, 8192)
    max_batch_tokens = config.max_batch_tokens or default_tokens
    limits = StepLimits(
        config.max_num_sequences or min(default_sequences, max_batch_tokens), max_batch_tokens
    )
    if limits.max_batch_tokens < limits.max_num_sequences:
        raise ModelRefused(
            f"--max-batch-tokens {limits.max_batch_tokens} must be at least --max-num-sequences "
            f"{limits.max_num_sequences}: every running request needs one token a step."
        )
    return limits


def max_loading(config: EngineConfig, device: torch.device) -> int:
    """Threads that read adapters. Beside a GPU most cores are idle; a CPU's are the model's."""
    return config.max_loading or (2 if device.type == "cpu" else 8)


def host_adapter_bytes(config: EngineConfig, device: torch.device, available: int) -> int:
    """Bytes of the host tier, of the `available` ones. Raises ModelRefused when there are fewer."""
    if config.host_adapter_bytes is None:
        most = CPU_HOST_ADAPTER_BYTES if device.type == "cpu" else GPU_HOST_ADAPTER_BYTES
        return min(most, int(available * HOST_ADAPTER_SHARE))
    require_fits("--host-adapter-memory", config.host_adapter_bytes, available)
    return config.host_adapter_bytes


def require_fits(option: str, num_bytes: int, available: int) -> None:
    """Raises ModelRefused when the operator asks for more bytes than the host has available."""
    if num_bytes > available:
        raise ModelRefused(
            f"{option} of {num_bytes / _MIB:.0f} MiB does not fit: "
            f"{max(0, available) / _MIB:.0f} MiB of the host's memory are available."
        )
