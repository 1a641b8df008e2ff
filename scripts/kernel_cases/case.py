"""What scripts/bench_kernels.py measures: one kernel at one shape, and the least it could cost."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """`make` lays out the inputs and returns one call per set of them; see `rotation`.

    A call launches the kernel on the current stream, does not wait for it, and may be captured in a
    CUDA graph. Outputs are new tensors or overwrite the inputs, which stay finite over thousands of
    calls.
    """

    name: str
    shape: dict[str, int]
    bytes: int  # read and written at least once by one call
    flops: int  # of one call, a multiply-add being two; 0 where the bytes decide
    make: Callable[[torch.device], list[Call]]


def rotation(
    num_bytes: int, make_call: Callable[[torch.device], Call]
) -> Callable[[torch.device], list[Call]]:
    """`Case.make` for calls of `num_bytes` each: enough of them that none finds its inputs in L2.

    `make_call` lays out one set of inputs in memory of its own.
    """

    def make(device: torch.device) -> list[Call]:
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        num_sets = max(2, ceil(2 * l2_bytes / num_bytes))
        return [make_call(device) for _ in range(num_sets)]

    return make
