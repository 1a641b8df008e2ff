"""adapter_model.safetensors in memory -> tensors by name, which are views of that memory.

Format: https://huggingface.co/docs/safetensors: the header's length in 8 bytes, the header in JSON,
then the tensors' bytes without a gap. It is read here because the library's reader of a file in
memory copies all of it while it holds the interpreter's lock, and the step loop with it; the tests
hold this reader to the library's judgement.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated

import msgspec
import torch
from msgspec import Meta, Struct

from lorax_serve.engine.adapters.files import describe_garbage
from lorax_serve.engine.adapters.refusal import Refusal, corrupt, incompatible, shown
from lorax_serve.engine.adapters.tensor_shapes import TensorShapes

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


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring tensors of one type."""

    dtype: torch.dtype
    start: int  # bytes into the body
    stop: int
    shapes: TensorShapes

    def tensor(self, body: memoryview) -> torch.Tensor:
        """All of them end to end, [num_elements]: a view of `body`."""
        part = body[self.start : self.stop]
        if not part:  # torch.frombuffer refuses it
            return torch.empty(0, dtype=self.dtype)
        tensor = torch.frombuffer(part, dtype=self.dtype)
        if tensor.data_ptr() % _ALIGNMENT:
            tensor = torch.frombuffer(bytearray(part), dtype=self.dtype)
        return tensor


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """What a header says. Equal headers say the same, so one layout serves many files."""

    names: tuple[str, ...]  # of all tensors, in the order of their bytes
    _runs: tuple[_Run, ...]

    def runs(self, body: memoryview) -> list[torch.Tensor]:
        """The whole body as few flat tensors, one for each stretch of one type: views of it."""
        return [run.tensor(body) for run in self._runs]

    def tensors(self, runs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every tensor by name, each a view of one of `runs`."""
        views = [
            view
            for run, tensor in zip(self._runs, runs, strict=True)
            for view in run.shapes.unflatten(tensor)
        ]
        return dict(zip(self.names, views, strict=True))


def split_file(data: memoryview) -> tuple[memoryview, memoryview]:
    """The header and the tensors' bytes of a file. `data` is writable. Raises Refusal."""
    garbage = describe_garbage(data)
    if garbage is not None:
        raise corrupt(f"{WEIGHTS_NAME} {garbage}")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(data) < _LENGTH_BYTES or length > _MAX_HEADER_BYTES or start > len(data):
        raise _malformed()
    return data[_LENGTH_BYTES:start], data[start:]


def read_layout(header: memoryview, num_body_bytes: int) -> TensorLayout:
    """Raises Refusal unless the tensors fill the body exactly and have types that are served."""
    entries = _parse(header)
    unserved = [
        f"{shown(name)} has type {entry.dtype}; {', '.join(_DTYPES)} are served"
        for name, entry in entries.items()
        if entry.dtype not in _DTYPES
    ]
    if unserved:
        raise incompatible(*unserved)
    in_order = sorted(entries.items(), key=lambda item: item[1].data_offsets)
    _check_extents([entry for _, entry in in_order], num_body_bytes)
    return TensorLayout(
        names=tuple(name for name, _ in in_order),
        _runs=tuple(
            _run(dtype, list(neighbours))
            for dtype, neighbours in groupby(
                (entry for _, entry in in_order), key=lambda entry: entry.dtype
            )
        ),
    )


def _run(dtype: str, entries: Sequence[_Entry]) -> _Run:
    return _Run(
        dtype=_DTYPES[dtype],
        start=entries[0].data_offsets[0],
        stop=entries[-1].data_offsets[1],
        shapes=TensorShapes(entry.shape for entry in entries),
    )


def _parse(header: memoryview) -> dict[str, _Entry]:
    try:
        fields = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        _check_metadata(fields.pop(_METADATA, None))
        return {name: msgspec.json.decode(raw, type=_Entry) for name, raw in fields.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _malformed() from None


def _check_metadata(raw: msgspec.Raw | None) -> None:
    if raw is not None:
        msgspec.json.decode(raw, type=dict[str, str] | None)


def _check_extents(entries: Iterable[_Entry], num_bytes: int) -> None:
    """Each tensor has the bytes its shape asks for; together they are all bytes, none twice."""
    end = 0
    for entry in entries:
        start, stop = entry.data_offsets
        size = math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize
        if start != end or stop - start != size:
            raise _malformed()
        end = stop
    if end != num_bytes:
        raise _malformed()


def _malformed() -> Refusal:
    return corrupt(f"{WEIGHTS_NAME} is cut short or no safetensors file")
