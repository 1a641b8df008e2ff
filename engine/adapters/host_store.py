"""Packed adapters on the host: one buffer within a byte budget, slabs found by content.

The buffer is laid out once, at start. Loader threads pack straight into an extent that the loop has
reserved for them, so an adapter is written to the host once; on a GPU the buffer is pinned, so one
asynchronous copy takes it from here to the device. See docs/decisions/0007.

Used by the engine's loop alone, but for the bytes of a reserved slab.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from lorax_serve.engine.adapters.eviction import Resident, UseHistory
from lorax_serve.engine.adapters.slab import PackedAdapter, SlabLayout
from lorax_serve.engine.adapters.slab_tier import OnEvicted, SlabTier

# What reading an adapter again costs, at least; what one load took below that is noise.
_READ_SECONDS = 0.05
_READ_BYTES_PER_SECOND = 1e9


@dataclass(eq=False, slots=True, kw_only=True)
class HostSlab(Resident):
    """One adapter on the host. Pinned while it is filled, waited for, or copied."""

    packed: PackedAdapter
    is_filled: bool = False


class HostStore:
    def __init__(
        self, buffer: torch.Tensor, history: UseHistory, on_evicted: OnEvicted | None = None
    ) -> None:
        """`buffer` is [num_elements], of the type slabs have on the device."""
        self._buffer = buffer
        self._tier: SlabTier[HostSlab] = SlabTier(buffer.nbytes, history, on_evicted)
        self._kept: Collection[str] = ()

    @property
    def capacity_bytes(self) -> int:
        return self._tier.capacity_bytes

    @property
    def used_bytes(self) -> int:
        return self._tier.used_bytes

    @property
    def pinned_bytes(self) -> int:
        return self._tier.pinned_bytes

    def __len__(self) -> int:
        return len(self._tier)

    def find(self, digest: str) -> HostSlab | None:
        """The slab with that content, if it is here in full."""
        slab = self._tier.find(digest)
        return slab if slab is not None and slab.is_filled else None

    def is_filling(self, digest: str) -> bool:
        slab = self._tier.find(digest)
        return slab is not None and not slab.is_filled

    def keep(self, digests: Collection[str]) -> None:
        """Evict none of these until the next call."""
        self._kept = digests

    def reserve(self, digest: str, layout: SlabLayout, *, read_seconds: float) -> HostSlab | None:
        """Room for an adapter, pinned, to be filled and then `publish`ed or `discard`ed.

        None when pins leave no room.
        """
        num_bytes = layout.num_elements * self._buffer.itemsize
        room = self._tier.make_room(num_bytes, keep=self._kept)
        if room is None:
            return None
        extent, _ = room
        first = extent.start // self._buffer.itemsize
        slab = HostSlab(
            digest=digest,
            extent=extent,
            reload_seconds=max(read_seconds, _READ_SECONDS + num_bytes / _READ_BYTES_PER_SECOND),
            packed=PackedAdapter(digest, layout, self._buffer[first : first + layout.num_elements]),
        )
        self._tier.add(slab)
        self._tier.pin(slab)
        return slab

    def publish(self, slab: HostSlab) -> None:
        """The slab has been filled. It stays pinned."""
        slab.is_filled = True

    def discard(self, slab: HostSlab) -> None:
        """The slab could not be filled."""
        self._tier.unpin(slab)
        self._tier.drop(slab)

    def touch(self, slab: HostSlab) -> None:
        """The adapter is used by one more sequence."""
        self._tier.touch(slab)

    def pin(self, slab: HostSlab) -> None:
        self._tier.pin(slab)

    def unpin(self, slab: HostSlab) -> None:
        self._tier.unpin(slab)

    def check_integrity(self) -> None:
        self._tier.check_integrity()
