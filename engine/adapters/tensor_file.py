"""adapter_model.safetensors as bytes -> tensors by name.

Format: https://huggingface.co/docs/safetensors. The library checks header, offsets and sizes; the
tensors it hands out are copies in ordinary memory.
"""

import safetensors
import torch

from lorax_serve.engine.adapters.files import describe_garbage
from lorax_serve.engine.adapters.refusal import corrupt, incompatible, shown

WEIGHTS_NAME = "adapter_model.safetensors"

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Every tensor of the file, in its own type. Raises Refusal."""
    garbage = describe_garbage(data)
    if garbage is not None:
        raise corrupt(f"{WEIGHTS_NAME} {garbage}")
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        raise corrupt(f"{WEIGHTS_NAME} is cut short or no safetensors file") from None
    unserved = [
        f"{shown(name)} has type {entry['dtype']}; {', '.join(_DTYPES)} are served"
        for name, entry in entries
        if entry["dtype"] not in _DTYPES
    ]
    if unserved:
        raise incompatible(*unserved)
    return {
        name: _tensor(entry["data"], _DTYPES[entry["dtype"]], entry["shape"])
        for name, entry in entries
    }


def _tensor(data: bytearray, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    if not data:  # torch.frombuffer refuses it
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(shape)
