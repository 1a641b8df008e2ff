"""The adapters on the device: one big buffer, one contiguous slab for each adapter.

Used by the engine's loop alone, but for `pack`, so nothing here locks. Copies go through the
current stream, after the steps launched before them: no slab is overwritten under a running kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorax_serve.engine.adapters.slab import PackedAdapter, pack, slab_sites
from lorax_serve.engine.adapters.slab_space import Extent, SlabSpace
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.kernels.lora import BASE_SLOT, LoraDelta, LoraSite, Segments
from lorax_serve.kernels.sgmv import SiteWeights, lora_segments_reference

ALIGNMENT = 256  # bytes; every slab starts at a multiple, as wide vector loads want it


@dataclass(eq=False, slots=True)
class AdapterSlot:
    """One adapter's place on the device. Pinned while any running sequence uses it."""

    index: int  # what segments name; reused once the slot is evicted
    digest: str
    extent: Extent  # bytes of the pool's buffer
    sites: tuple[SiteWeights | None, ...]  # views into the buffer, by site index
    num_pins: int = 0
    last_used: int = 0  # the pool's clock at the last pin or unpin

    @property
    def num_bytes(self) -> int:
        return self.extent.size


@dataclass(frozen=True, slots=True)
class _SegmentsDelta:
    """A LoraDelta in plain torch."""

    segments: Segments
    sites: tuple[tuple[SiteWeights | None, ...], ...]  # [segment][site index]

    def add_to(self, y: torch.Tensor, x: torch.Tensor, site: LoraSite) -> None:
        weights = [sites[site.index] for sites in self.sites]
        lora_segments_reference(y, x, self.segments, weights)


class AdapterPool:
    """Places packed adapters, evicts the least recently used ones that nobody pins."""

    def __init__(
        self,
        sites: Sequence[LoraSite],
        *,
        capacity_bytes: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        assert all(site.index == index for index, site in enumerate(sites))
        self.dtype = dtype
        self.device = device
        self._sites = tuple(sites)
        self._space = SlabSpace(capacity_bytes // ALIGNMENT * ALIGNMENT)
        self._buffer = torch.empty(
            self._space.capacity // dtype.itemsize, dtype=dtype, device=device
        )
        self._slots: dict[int, AdapterSlot] = {}
        self._by_digest: dict[str, AdapterSlot] = {}
        self._untouched: tuple[SiteWeights | None, ...] = (None,) * len(self._sites)
        self._clock = 0

    @property
    def capacity_bytes(self) -> int:
        return self._space.capacity

    @property
    def used_bytes(self) -> int:
        return self._space.used

    @property
    def num_resident(self) -> int:
        return len(self._slots)

    def pack(self, weights: LoraWeights) -> PackedAdapter:
        """Bring an adapter into the form `place` takes. Raises AdapterRejected.

        The one method that other threads may call: it reads nothing that ever changes.
        """
        return pack(
            weights,
            self._sites,
            dtype=self.dtype,
            max_bytes=self.capacity_bytes,
            transposed_a=self.device.type == "cpu",
            pin_memory=self.device.type == "cuda",
        )

    def find(self, digest: str) -> AdapterSlot | None:
        return self._by_digest.get(digest)

    def place(self, packed: PackedAdapter) -> AdapterSlot | None:
        """Copy an adapter in, evicting unpinned ones if need be; None when pins leave no room."""
        assert packed.digest not in self._by_digest, "the adapter is already here"
        unpinned = (slot for slot in self._slots.values() if slot.num_pins == 0)
        evictable = [slot.extent for slot in sorted(unpinned, key=lambda slot: slot.last_used)]
        size = -(-packed.num_bytes // ALIGNMENT) * ALIGNMENT
        placement = self._space.plan(size, evictable)
        if placement is None:
            return None
        for slot in tuple(self._slots.values()):
            if slot.extent in placement.evicted:
                self._evict(slot)
        return self._occupy(placement.extent, packed)

    def pin(self, slot: AdapterSlot) -> None:
        """Keep the slot where it is until as many unpins."""
        assert self._slots.get(slot.index) is slot, "the slot was evicted"
        slot.num_pins += 1
        self._touch(slot)

    def unpin(self, slot: AdapterSlot) -> None:
        assert slot.num_pins > 0, "the slot is not pinned"
        slot.num_pins -= 1
        self._touch(slot)

    def delta(self, segments: Segments) -> LoraDelta | None:
        """The LoRA part of a step whose rows lie in these segments; None when all are base rows."""
        if all(index == BASE_SLOT for index in segments.slots):
            return None
        return _SegmentsDelta(
            segments,
            tuple(
                self._untouched if index == BASE_SLOT else self._slots[index].sites
                for index in segments.slots
            ),
        )

    def check_integrity(self) -> None:
        """Assert that slots and extents are the same things, none overlapping another."""
        self._space.check_integrity()
        assert self._space.used == sum(slot.num_bytes for slot in self._slots.values())
        assert self._by_digest == {slot.digest: slot for slot in self._slots.values()}
        assert all(slot.index == index for index, slot in self._slots.items())
        assert all(slot.num_pins >= 0 for slot in self._slots.values())

    def _occupy(self, extent: Extent, packed: PackedAdapter) -> AdapterSlot:
        first = extent.start // self.dtype.itemsize
        slab = self._buffer[first : first + packed.layout.num_elements]
        slab.copy_(packed.slab, non_blocking=True)
        index = next(i for i in range(len(self._slots) + 1) if i not in self._slots)
        sites = slab_sites(slab, self._sites, packed.layout)
        slot = AdapterSlot(index, packed.digest, extent, sites)
        self._space.take(extent)
        self._slots[index] = slot
        self._by_digest[slot.digest] = slot
        self._touch(slot)
        return slot

    def _evict(self, slot: AdapterSlot) -> None:
        self._space.free(slot.extent)
        del self._slots[slot.index]
        del self._by_digest[slot.digest]

    def _touch(self, slot: AdapterSlot) -> None:
        self._clock += 1
        slot.last_used = self._clock
