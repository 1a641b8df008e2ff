"""Host memory that a GPU reads by itself: taken once, at start."""

import weakref

import torch

from lorax_serve.engine.errors import ModelRefused


def pinned_buffer(num_bytes: int, dtype: torch.dtype) -> torch.Tensor:
    """A page-locked [num_bytes // itemsize] tensor on the host. Raises ModelRefused.

    Not torch's pinned allocator, which rounds a request up to a power of two. Writing the pages
    first, on all cores, takes the greater part of the time out of locking them. The memory is
    unlocked when the tensor goes.
    """
    buffer = torch.empty(num_bytes // dtype.itemsize, dtype=dtype)
    if buffer.numel() == 0:
        return buffer
    buffer.zero_()
    cudart = torch.cuda.cudart()
    error = cudart.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0)
    if error != cudart.cudaError.success:
        raise ModelRefused(
            f"{num_bytes / 2**20:.0f} MiB of host memory for adapters cannot be pinned "
            f"({error}). Lower --host-adapter-memory."
        )
    # Whatever is allocated there next must not be found locked already.
    weakref.finalize(buffer, cudart.cudaHostUnregister, buffer.data_ptr()).atexit = False
    return buffer
