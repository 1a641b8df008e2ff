"""Which adapters are on the device: placement, pins and eviction. Bytes are the memory's affair.

Used by the engine's loop alone, but for `pack`, so nothing here locks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lorax_serve.engine.adapters.slab import PackedAdapter, pack
from lorax_serve.engine.adapters.slab_memory import SlabMemory
from lorax_serve.engine.adapters.slab_space import Extent, SlabSpace
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.kernels.lora import LoraSite

ALIGNMENT = 256  # bytes; every slab starts at a multiple, as wide vector loads want it


@dataclass(eq=False, slots=True)
class AdapterSlot:
    """One adapter's place on the device. Pinned while any running sequence uses it."""

    index: int  # what segments name; reused once the slot is evicted
    digest: str
    extent: Extent  # bytes of the pool's buffer
    num_pins: int = 0
    last_used: int = 0  # the pool's clock at the last pin or unpin

    @property
    def num_bytes(self) -> int:
        return self.extent.size


class AdapterPool:
    """Places packed adapters, evicts the least recently used ones that nobody pins."""

    def __init__(self, sites: Sequence[LoraSite], memory: SlabMemory) -> None:
        self._memory = memory
        self._sites = tuple(sites)
        self._space = SlabSpace(memory.capacity_bytes // ALIGNMENT * ALIGNMENT)
        self._slots: dict[int, AdapterSlot] = {}
        self._by_digest: dict[str, AdapterSlot] = {}
        self._arriving: list[AdapterSlot] = []  # pinned until their bytes are there
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
            dtype=self._memory.dtype,
            max_bytes=self.capacity_bytes,
            transposed_a=self._memory.transposed_a,
            pin_memory=self._memory.pin_memory,
        )

    def find(self, digest: str) -> AdapterSlot | None:
        return self._by_digest.get(digest)

    def is_ready(self, slot: AdapterSlot) -> bool:
        """Whether a step may use the slot, now that `poll` has been called."""
        return slot not in self._arriving

    @property
    def num_arriving(self) -> int:
        return len(self._arriving)

    def poll(self) -> None:
        """Learn which copies are done. Never blocks."""
        for slot in tuple(self._arriving):
            if self._memory.is_written(slot.index):
                self._arriving.remove(slot)
                self.unpin(slot)

    def place(self, packed: PackedAdapter) -> AdapterSlot | None:
        """Copy an adapter in, evicting unpinned ones if need be; None when pins leave no room.

        The slot is pinned until its bytes have arrived.
        """
        assert packed.digest not in self._by_digest, "the adapter is already here"
        unpinned = (slot for slot in self._slots.values() if slot.num_pins == 0)
        evictable = sorted(unpinned, key=lambda slot: slot.last_used)
        size = -(-packed.num_bytes // ALIGNMENT) * ALIGNMENT
        placement = self._space.plan(size, [slot.extent for slot in evictable])
        if placement is None:
            return None
        leaving = [slot for slot in evictable if slot.extent in placement.evicted]
        if not leaving and len(self._slots) == self._memory.max_slots:
            leaving = evictable[:1]
            if not leaving:
                return None
        for slot in leaving:
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

    def check_integrity(self) -> None:
        """Assert that slots and extents are the same things, none overlapping another."""
        self._space.check_integrity()
        assert self._space.used == sum(slot.num_bytes for slot in self._slots.values())
        assert self._by_digest == {slot.digest: slot for slot in self._slots.values()}
        assert all(slot.index == index for index, slot in self._slots.items())
        assert all(slot.num_pins >= 0 for slot in self._slots.values())

    def _occupy(self, extent: Extent, packed: PackedAdapter) -> AdapterSlot:
        index = next(i for i in range(len(self._slots) + 1) if i not in self._slots)
        self._memory.write(index, extent.start, packed)
        slot = AdapterSlot(index, packed.digest, extent)
        self._space.take(extent)
        self._slots[index] = slot
        self._by_digest[slot.digest] = slot
        self._touch(slot)
        if not self._memory.is_written(index):
            self.pin(slot)
            self._arriving.append(slot)
        return slot

    def _evict(self, slot: AdapterSlot) -> None:
        self._space.free(slot.extent)
        del self._slots[slot.index]
        del self._by_digest[slot.digest]

    def _touch(self, slot: AdapterSlot) -> None:
        self._clock += 1
        slot.last_used = self._clock
