"""adapter_model.safetensors in memory -> tensors by name, which are views of that memory.

Format: https://huggingface.co/docs/safetensors: the header's length in 8 bytes, the header in JSON,
then the tensors' bytes without a gap. It is read here because the library's reader of a file in
memory copies all of it while it holds the interpreter's lock, and the step loop with it; the tests
hold this reader to the library's judgement.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec
import torch
from msgspec import Meta, Struct

from lorax_serve.engine.adapters.files import describe_garbage
from lorax_serve.engine.adapters.refusal import Refusal, corrupt, incompatible, shown

WEIGHTS_NAME = "adapter_model.safetensors"

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's
_METADATA = "__metadata__"
_ALIGNMENT = 8  # bytes; what the format's writers give
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_Size = Annotated[int, Meta(ge=0, le=2**62)]


class _Entry(Struct, frozen=True):
    dtype: str
    shape: list[_Size]
    data_offsets: tuple[_Size, _Size]


def load_tensors(data: memoryview) -> dict[str, torch.Tensor]:
    """Every tensor of the file, in its own type. `data` is writable. Raises Refusal."""
    garbage = describe_garbage(data)
    if garbage is not None:
        raise corrupt(f"{WEIGHTS_NAME} {garbage}")
    entries, body = _parse(data)
    unserved = [
        f"{shown(name)} has type {entry.dtype}; {', '.join(_DTYPES)} are served"
        for name, entry in entries.items()
        if entry.dtype not in _DTYPES
    ]
    if unserved:
        raise incompatible(*unserved)
    _check_extents(entries, len(body))
    return {name: _tensor(body, entry) for name, entry in entries.items()}


def _parse(data: memoryview) -> tuple[dict[str, _Entry], memoryview]:
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(data) < _LENGTH_BYTES or length > _MAX_HEADER_BYTES or start > len(data):
        raise _malformed()
    try:
        header = msgspec.json.decode(data[_LENGTH_BYTES:start], type=dict[str, msgspec.Raw])
        _check_metadata(header.pop(_METADATA, None))
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _malformed() from None
    return entries, data[start:]


def _check_metadata(raw: msgspec.Raw | None) -> None:
    if raw is not None:
        msgspec.json.decode(raw, type=dict[str, str] | None)


def _check_extents(entries: Mapping[str, _Entry], num_bytes: int) -> None:
    """Each tensor has the bytes its shape asks for; together they are all bytes, none twice."""
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.data_offsets):
        start, stop = entry.data_offsets
        size = math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize
        if start != end or stop - start != size:
            raise _malformed()
        end = stop
    if end != num_bytes:
        raise _malformed()


def _tensor(body: memoryview, entry: _Entry) -> torch.Tensor:
    dtype = _DTYPES[entry.dtype]
    start, stop = entry.data_offsets
    part = body[start:stop]
    if not part:  # torch.frombuffer refuses it
        return torch.empty(entry.shape, dtype=dtype)
    tensor = torch.frombuffer(part, dtype=dtype)
    if tensor.data_ptr() % _ALIGNMENT:
        tensor = torch.frombuffer(bytearray(part), dtype=dtype)
    return tensor.reshape(entry.shape)


def _malformed() -> Refusal:
    return corrupt(f"{WEIGHTS_NAME} is cut short or no safetensors file")
