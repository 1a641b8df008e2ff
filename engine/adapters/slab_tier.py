"""One bounded buffer of slabs: who lies where, who is pinned, who leaves. No bytes are touched.

Both tiers, host and device, are one of these each. Used by the engine's loop alone.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Generic, TypeVar

from lorax_serve.engine.adapters.eviction import GreedyDual, Resident, UseHistory
from lorax_serve.engine.adapters.eviction_order import EvictionOrder
from lorax_serve.engine.adapters.slab_space import Extent, Placement, SlabSpace

ALIGNMENT = 256  # bytes; every slab starts at a multiple, as wide vector loads want it
_PIN_VALUE = 1e6  # seconds; more than any resident is worth
_EXPECTED_VALUE = 1e11  # more than any number of pins

ResidentT = TypeVar("ResidentT", bound=Resident)


OnEvicted = Callable[[str], None]  # is given the digest of what has left for another's sake


class SlabTier(Generic[ResidentT]):
    def __init__(
        self, capacity_bytes: int, history: UseHistory, on_evicted: OnEvicted | None = None
    ) -> None:
        self._on_evicted = on_evicted
        self._space = SlabSpace(capacity_bytes // ALIGNMENT * ALIGNMENT)
        self._priorities = GreedyDual(history)
        self._order: EvictionOrder[ResidentT] = EvictionOrder(self._priorities.value)
        self._by_digest: dict[str, ResidentT] = {}
        self._by_extent: dict[Extent, ResidentT] = {}
        self.pinned_bytes = 0

    @property
    def capacity_bytes(self) -> int:
        return self._space.capacity

    @property
    def used_bytes(self) -> int:
        return self._space.used

    def __len__(self) -> int:
        return len(self._by_digest)

    def __iter__(self) -> Iterator[ResidentT]:
        return iter(self._by_digest.values())

    def find(self, digest: str) -> ResidentT | None:
        return self._by_digest.get(digest)

    def make_room(
        self,
        num_bytes: int,
        *,
        keep: Collection[str] = (),
        reserved: Collection[Extent] = (),
        must_evict: bool = False,
    ) -> tuple[Extent, list[ResidentT]] | None:
        """An extent for that many bytes, and who was evicted for it.

        Whoever is pinned or has a digest in `keep` stays, and so does what lies in `reserved`
        extents; of the others, those leave that lose the least value. None, with nobody evicted,
        when there is no such hole. `must_evict`: at least one has to go.
        """
        if must_evict or reserved:
            return self._make_room_beside(aligned(num_bytes), keep, reserved, must_evict=must_evict)

        def value_of(extent: Extent) -> float | None:
            resident = self._by_extent[extent]
            if resident.num_pins or resident.digest in keep:
                return None
            return self._priorities.value(resident)

        evictable = (r for r in self._order if r.num_pins == 0 and r.digest not in keep)
        cheapest_first = ((r.extent, self._priorities.value(r)) for r in evictable)
        placement = self._space.plan_from(aligned(num_bytes), cheapest_first, value_of)
        return None if placement is None else self._take_place(placement)

    def _make_room_beside(
        self,
        num_bytes: int,
        keep: Collection[str],
        reserved: Collection[Extent],
        *,
        must_evict: bool,
    ) -> tuple[Extent, list[ResidentT]] | None:
        """`make_room` by looking at all residents."""
        evictable = [
            r
            for r in self
            if r.num_pins == 0
            and r.digest not in keep
            and not any(map(r.extent.overlaps, reserved))
        ]
        if must_evict and not evictable:
            return None
        values = {r.extent: self._priorities.value(r) for r in evictable}
        placement = self._space.plan(num_bytes, values, reserved=reserved)
        if placement is None:
            return None
        if must_evict and not placement.evicted:
            worst = min(evictable, key=lambda resident: resident.priority)
            placement = Placement(placement.extent, (worst.extent,))
        return self._take_place(placement)

    def _take_place(self, placement: Placement) -> tuple[Extent, list[ResidentT]]:
        leaving = [self._by_extent[extent] for extent in placement.evicted]
        self.evict(leaving)
        return placement.extent, leaving

    def evict(self, leaving: Collection[ResidentT]) -> None:
        """These leave, for another's sake."""
        self._priorities.evicted(leaving)
        for resident in leaving:
            self.drop(resident)
            if self._on_evicted is not None:
                self._on_evicted(resident.digest)

    def largest_hole(self, staying: Iterable[ResidentT]) -> int:
        """Bytes of the largest slab that there would be room for beside `staying` alone."""
        return self._space.largest_hole({resident.extent for resident in staying})

    def easiest_to_drain(
        self,
        num_bytes: int,
        *,
        staying: Collection[ResidentT],
        expected: Collection[str],
        reserved: Collection[Extent],
    ) -> tuple[Extent, list[ResidentT]] | None:
        """The hole of that size with the fewest of the digests `expected` in it, of equal ones with
        the fewest pins, then with the least value; and who lies in it: nobody of `staying`.

        None when there is no such hole outside `reserved` extents.
        """
        values = {
            resident.extent: (resident.digest in expected) * _EXPECTED_VALUE
            + resident.num_pins * _PIN_VALUE
            + self._priorities.value(resident)
            for resident in self
            if resident not in staying and not any(map(resident.extent.overlaps, reserved))
        }
        placement = self._space.plan(aligned(num_bytes), values, reserved=reserved)
        if placement is None:
            return None
        return placement.extent, [self._by_extent[extent] for extent in placement.evicted]

    def add(self, resident: ResidentT) -> None:
        assert resident.digest not in self._by_digest, "the adapter is already here"
        self._space.take(resident.extent)
        self._by_digest[resident.digest] = resident
        self._by_extent[resident.extent] = resident
        self.touch(resident)

    def drop(self, resident: ResidentT) -> None:
        assert resident.num_pins == 0, "the slab is pinned"
        self._space.free(resident.extent)
        del self._by_digest[resident.digest]
        del self._by_extent[resident.extent]
        self._order.remove(resident)

    def touch(self, resident: ResidentT) -> None:
        """The resident is used."""
        self._priorities.touch(resident)
        self._order.put(resident)

    def pin(self, resident: ResidentT) -> None:
        """Keep the slab where it is until as many unpins."""
        assert self._by_digest.get(resident.digest) is resident, "the slab was evicted"
        if resident.num_pins == 0:
            self.pinned_bytes += resident.num_bytes
        resident.num_pins += 1

    def unpin(self, resident: ResidentT) -> None:
        assert resident.num_pins > 0, "the slab is not pinned"
        resident.num_pins -= 1
        if resident.num_pins == 0:
            self.pinned_bytes -= resident.num_bytes

    def check_integrity(self) -> None:
        """Assert that residents and extents are the same things, none overlapping another."""
        self._space.check_integrity()
        assert self._space.used == _total(self)
        assert self._by_extent == {resident.extent: resident for resident in self}
        assert self.pinned_bytes == _total(r for r in self if r.num_pins)
        assert all(resident.num_pins >= 0 for resident in self)
        assert sorted(map(id, self._order)) == sorted(map(id, self))


def aligned(num_bytes: int) -> int:
    """What so many bytes take of a tier."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _total(residents: Iterable[Resident]) -> int:
    return sum(resident.num_bytes for resident in residents)
