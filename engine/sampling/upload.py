"""A step's small host arrays on their way to a device: one buffer, one copy, no waiting."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes


class Sent:
    """One array's place on the device; `tensor` is there once the upload is sent."""

    __slots__ = ("tensor",)

    tensor: Tensor


class Upload:
    """Collects arrays, then sends them all."""

    def __init__(self) -> None:
        self._arrays: list[tuple[npt.NDArray[Any], int, Sent]] = []
        self._num_bytes = 0

    def add(self, array: npt.NDArray[Any]) -> Sent:
        sent = Sent()
        self._arrays.append((np.ascontiguousarray(array), self._num_bytes, sent))
        self._num_bytes += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return sent

    def add_tensor(self, tensor: Tensor) -> Sent:
        """A tensor that may be on the device already."""
        if tensor.device.type == "cpu":
            return self.add(tensor.numpy())
        sent = Sent()
        sent.tensor = tensor
        return sent

    def send(self, device: torch.device) -> Tensor | None:
        """Enqueue the copy on the current stream and give every array its tensor.

        Returns the host's buffer, which has to outlive the copy; None if there was nothing to send.
        """
        if not self._arrays:
            return None
        buffer = torch.empty(self._num_bytes, dtype=torch.uint8, pin_memory=device.type != "cpu")
        octets = buffer.numpy()
        for array, start, _ in self._arrays:
            octets[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        on_device = buffer.to(device, non_blocking=True)
        for array, start, sent in self._arrays:
            dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
            section = on_device[start : start + array.nbytes]
            sent.tensor = section.view(dtype).view(array.shape)
        return buffer


def to_pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, enqueued on the current stream; a host's tensor as it is."""
    if tensor.device.type == "cpu":
        return tensor
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
