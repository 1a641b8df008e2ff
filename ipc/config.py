"""The engine's launch contract: one JSON line on its standard input."""

import enum
from typing import Annotated

from msgspec import Meta, Struct


class Device(enum.Enum):
    AUTO = "auto"  # cuda when a GPU is visible, else cpu
    CPU = "cpu"
    CUDA = "cuda"


class DType(enum.Enum):
    AUTO = "auto"  # the checkpoint's own on cuda, float32 on cpu
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class AttentionBackendName(enum.Enum):
    AUTO = "auto"  # on cuda flash where it is installed and fits the model, else triton
    FLASH = "flash"
    TRITON = "triton"
    TORCH = "torch"


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str  # ipc:// address the engine binds
    model_path: str  # local Hugging Face folder
    model_name: str = ""  # what clients call it; for messages only
    device: Device = Device.AUTO
    dtype: DType = DType.AUTO
    attention_backend: AttentionBackendName = AttentionBackendName.AUTO
    cuda_graphs: bool = True
    gpu_memory_share: Annotated[float, Meta(gt=0, le=1)] = 0.92  # of the device, for everything
    max_model_len: Annotated[int, Meta(ge=16)] | None = None  # None: the model's own
    # None in these: what suits the device; see engine/device_defaults.py and engine/execution.py.
    block_size: Annotated[int, Meta(ge=1, le=1024)] | None = None
    kv_cache_bytes: Annotated[int, Meta(ge=1)] | None = None
    adapter_pool_bytes: Annotated[int, Meta(ge=1)] | None = None
    host_adapter_bytes: Annotated[int, Meta(ge=1)] | None = None  # on a GPU, pinned at start
    max_num_sequences: Annotated[int, Meta(ge=1, le=4096)] | None = None
    max_batch_tokens: Annotated[int, Meta(ge=1)] | None = None  # of one step, prompts and decodes
    prefix_cache: bool = True
    max_queued: Annotated[int, Meta(ge=1)] = 1024
    max_adapter_rank: Annotated[int, Meta(ge=1, le=1024)] = 256
    max_loading: Annotated[int, Meta(ge=1, le=64)] | None = None  # adapters read at the same time
    max_slots_per_tenant: Annotated[int, Meta(ge=1)] | None = None  # of adapters on the device
    num_threads: Annotated[int, Meta(ge=1)] | None = None  # None: torch decides
    log_level: str = "info"
    log_json: bool = True  # False: lines for people
