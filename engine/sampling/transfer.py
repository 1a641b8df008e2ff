"""Small arrays of numbers on their way to the device, without waiting for it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(values: Tensor | Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The values on `device`, enqueued on its current stream.

    A copy from ordinary memory would wait until the device has done all it was told before.
    """
    host = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    host = host.to(dtype)
    if device.type == "cpu":
        return host
    return host.pin_memory().to(device, non_blocking=True)
