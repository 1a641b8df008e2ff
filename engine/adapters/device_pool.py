"""Which adapters are on the device: placement, pins and eviction. Bytes are the memory's affair.

Used by the engine's loop alone, so nothing here locks.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass

from lorax_serve.engine.adapters.eviction import Resident, UseHistory
from lorax_serve.engine.adapters.slab import PackedAdapter
from lorax_serve.engine.adapters.slab_memory import SlabMemory
from lorax_serve.engine.adapters.slab_space import Extent
from lorax_serve.engine.adapters.slab_tier import OnEvicted, SlabTier, aligned
from lorax_serve.engine.adapters.tenant_slots import TenantSlots
from lorax_serve.ipc.types import HeadKind

# What a copy costs a request: a step passes before the adapter can be used, then the bytes.
_COPY_SECONDS = 0.01
_COPY_BYTES_PER_SECOND = 25e9


@dataclass(eq=False, slots=True, kw_only=True)
class AdapterSlot(Resident):
    """One adapter's place on the device. Pinned while any running sequence uses it."""

    index: int  # what segments name; reused once the slot is evicted
    head: HeadKind | None  # of its classification head


_Room = tuple[Extent, list[AdapterSlot]]  # and who was evicted for it


@dataclass(frozen=True, slots=True)
class _Reservation:
    """A place for one adapter. Who lies there goes once its sequences have ended."""

    extent: Extent
    leaving: frozenset[AdapterSlot]  # nobody new may use these


class AdapterPool:
    """Places packed adapters, evicting those of the least value that nobody pins."""

    def __init__(
        self, memory: SlabMemory, history: UseHistory, on_evicted: OnEvicted | None = None
    ) -> None:
        self._memory = memory
        self._tier: SlabTier[AdapterSlot] = SlabTier(memory.capacity_bytes, history, on_evicted)
        self._free_indices: list[int] = []  # below `_num_indices`, a heap
        self._num_indices = 0
        self._arriving: list[AdapterSlot] = []  # pinned until their bytes are there
        self._reservations: dict[str, _Reservation] = {}  # by the digest of whom they are for
        # By the digest of whom they make way for: filled for the same tenant, which has no other.
        self._making_way: dict[str, AdapterSlot] = {}
        self._filled: TenantSlots[AdapterSlot] = TenantSlots()
        self._held: Counter[AdapterSlot] = Counter()  # each has a pin for as long as it is here
        self.num_changes = 0  # by which somebody may find room, or an adapter, that was not there

    @property
    def capacity_bytes(self) -> int:
        return self._tier.capacity_bytes

    @property
    def used_bytes(self) -> int:
        return self._tier.used_bytes

    @property
    def pinned_bytes(self) -> int:
        return self._tier.pinned_bytes

    @property
    def held_bytes(self) -> int:
        """What operators have pinned."""
        return sum(slot.num_bytes for slot in self._held)

    @property
    def num_resident(self) -> int:
        return len(self._tier)

    @property
    def num_arriving(self) -> int:
        return len(self._arriving)

    def find(self, digest: str) -> AdapterSlot | None:
        return self._tier.find(digest)

    def is_ready(self, slot: AdapterSlot) -> bool:
        """Whether a step may use the slot, now that `poll` has been called."""
        return slot not in self._arriving

    def order_steps_after(self, slot: AdapterSlot) -> None:
        """Steps launched from now on may use the slot: on the device they wait for its bytes."""
        self._memory.order_steps_after(slot.index)

    def poll(self) -> list[AdapterSlot]:
        """The slots whose copies have been done since the last call. Never blocks."""
        arrived = [slot for slot in self._arriving if self._memory.is_written(slot.index)]
        for slot in arrived:
            self._arriving.remove(slot)
            self.unpin(slot)
        return arrived

    def place(
        self, packed: PackedAdapter, *, keep: Set[str] = frozenset(), tenant: str | None = None
    ) -> AdapterSlot | None:
        """Copy an adapter in, evicting unpinned ones if need be, but no digest of `keep`.

        It goes to the place reserved for it if no other is free. None when pins leave no room. The
        slot is pinned until its bytes have arrived, and counts as one that `tenant` has filled.
        """
        assert self.find(packed.digest) is None, "the adapter is already here"
        room = self._room(packed.num_bytes, keep) or self._reserved_room(packed.digest)
        if room is None:
            return None
        self.cancel_reservation(packed.digest)
        extent, evicted = room
        self._left(evicted)
        index = self._take_index()
        self._memory.write(index, extent.start, packed)
        slot = AdapterSlot(
            digest=packed.digest,
            extent=extent,
            reload_seconds=_COPY_SECONDS + packed.num_bytes / _COPY_BYTES_PER_SECOND,
            index=index,
            head=None if packed.layout.head is None else packed.layout.head.kind,
        )
        self._tier.add(slot)
        if tenant is not None:
            self._filled.filled(slot, tenant)
        self.num_changes += 1
        if not self._memory.is_written(index):
            self._tier.pin(slot)
            self._arriving.append(slot)
        return slot

    def touch(self, slot: AdapterSlot) -> None:
        """The slot is used by one more sequence."""
        self._tier.touch(slot)

    def pin(self, slot: AdapterSlot) -> None:
        """Keep the slot where it is until as many unpins."""
        self._tier.pin(slot)

    def unpin(self, slot: AdapterSlot) -> None:
        self._tier.unpin(slot)
        self.num_changes += 1

    def hold(self, slot: AdapterSlot) -> bool:
        """Pin the slot for an operator, until as many `unhold`s.

        False, and nothing happens, where that would leave too little for others: half of the bytes
        and of the slots, and a quarter of the bytes in one piece.
        """
        held = {*self._held, slot}
        if (
            2 * sum(each.num_bytes for each in held) > self.capacity_bytes
            or 4 * self._tier.largest_hole(held) < self.capacity_bytes
            or 2 * len(held) > self._memory.max_slots
        ):
            return False
        self._tier.pin(slot)
        self._held[slot] += 1
        # Whoever was to have its place would wait until it is unpinned.
        for digest in [d for d, each in self._reservations.items() if slot in each.leaving]:
            self.cancel_reservation(digest)
        for digest in [d for d, each in self._making_way.items() if each is slot]:
            self.cancel_reservation(digest)
        return True

    def unhold(self, slot: AdapterSlot) -> None:
        assert self._held[slot] > 0, "nobody holds the slot"
        self.unpin(slot)
        self._held[slot] -= 1
        self._held += Counter()  # drops those at zero

    def is_held(self, slot: AdapterSlot) -> bool:
        return slot in self._held

    def has_room_beside_held(self, num_bytes: int) -> bool:
        """Whether a slab of that size can be placed once nobody but operators pins anything."""
        return not self._held or self._tier.largest_hole(self._held) >= aligned(num_bytes)

    def reserve(self, digest: str, num_bytes: int, *, expected: Set[str] = frozenset()) -> None:
        """Find the adapter a place that nobody else is given and nobody new may use, if there is
        one: of all, that with the fewest digests of `expected`, then with the fewest pins.

        At most a quarter of the bytes is reserved, but one place always.
        """
        if digest in self._reservations:
            return
        reserved = self._reserved_extents
        num_reserved = sum(extent.size for extent in reserved)
        if reserved and 4 * (num_reserved + num_bytes) > self.capacity_bytes:
            return
        staying = {*self._held, *self._draining}
        place = self._tier.easiest_to_drain(
            num_bytes, staying=staying, expected=expected, reserved=reserved
        )
        if place is None:
            return
        extent, leaving = place
        others = [slot for slot in self._tier if slot not in staying]
        if not leaving and others:  # bytes there are, but no slot to name them by
            leaving = [min(others, key=lambda slot: (slot.num_pins, slot.priority))]
        self._reservations[digest] = _Reservation(extent, frozenset(leaving))

    def num_of(self, tenant: str) -> int:
        """Slots that were filled for the tenant, without those that operators have pinned since."""
        return len(self._filled.of(tenant) - self._held.keys())

    def idle_of(self, tenant: str, digest: str, keep: Set[str]) -> AdapterSlot | None:
        """Of the slots filled for the tenant the one of the least value that may leave for the
        adapter `digest`: nobody pins it, and it is not in `keep` or makes way for that adapter.
        """
        making_way = self._making_way.get(digest)
        staying = self._draining
        idle = (
            slot
            for slot in self._filled.of(tenant)
            if slot.num_pins == 0
            and (slot is making_way or (slot.digest not in keep and slot not in staying))
        )
        return min(idle, key=lambda slot: (slot is not making_way, slot.priority), default=None)

    def make_way_among(self, tenant: str, digest: str) -> None:
        """Nobody new may use one of the slots filled for the tenant, until it can leave for the
        adapter `digest`: that with the fewest pins."""
        own = self._filled.of(tenant) - self._held.keys() - self._draining
        if own:
            self._making_way[digest] = min(own, key=lambda slot: (slot.num_pins, slot.priority))
            self.num_changes += 1

    def evict(self, slot: AdapterSlot) -> None:
        """An idle slot leaves, for another adapter of its tenant's."""
        self._making_way = {d: each for d, each in self._making_way.items() if each is not slot}
        self._tier.evict([slot])
        self._left([slot])
        self.num_changes += 1

    def has_reserved(self, digest: str) -> bool:
        """Whether a place is reserved for the adapter, or a slot makes way for it."""
        return digest in self._reservations or digest in self._making_way

    def cancel_reservation(self, digest: str) -> None:
        """The adapter needs no place any more."""
        for places in (self._reservations, self._making_way):
            if places.pop(digest, None) is not None:
                self.num_changes += 1

    def is_draining(self, slot: AdapterSlot) -> bool:
        """Whether somebody waits for the slot's place."""
        return slot in self._draining

    def check_integrity(self) -> None:
        """Assert that slots and extents are the same things, none overlapping another."""
        self._tier.check_integrity()
        assert all(slot in self._tier for slot in self._draining)
        self._filled.check_integrity(set(self._tier))
        taken = sorted(slot.index for slot in self._tier)
        assert sorted([*taken, *self._free_indices]) == list(range(self._num_indices))

    @property
    def _draining(self) -> set[AdapterSlot]:
        reserved = {slot for each in self._reservations.values() for slot in each.leaving}
        return reserved.union(self._making_way.values())

    @property
    def _reserved_extents(self) -> list[Extent]:
        return [each.extent for each in self._reservations.values()]

    def _room(self, num_bytes: int, keep: Set[str]) -> _Room | None:
        """A place that is not reserved."""
        return self._tier.make_room(
            num_bytes,
            keep=keep | {slot.digest for slot in self._draining},
            reserved=self._reserved_extents,
            must_evict=len(self._tier) == self._memory.max_slots,
        )

    def _reserved_room(self, digest: str) -> _Room | None:
        reservation = self._reservations.get(digest)
        if reservation is None or any(slot.num_pins for slot in reservation.leaving):
            return None
        self._tier.evict(reservation.leaving)
        return reservation.extent, list(reservation.leaving)

    def _left(self, slots: Iterable[AdapterSlot]) -> None:
        for slot in slots:
            heapq.heappush(self._free_indices, slot.index)
            self._filled.left(slot)

    def _take_index(self) -> int:
        """The lowest one that is free."""
        if self._free_indices:
            return heapq.heappop(self._free_indices)
        self._num_indices += 1
        return self._num_indices - 1
