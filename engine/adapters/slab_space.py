"""Which bytes of a buffer are taken. Integers only: the buffer itself is somebody else's.

Only the taken extents are kept, in order of address; the free gaps are what lies between them, so
neighbouring gaps are one by nature and free plus used is always the capacity.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    start: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Placement:
    """Where something would go, and what has to leave first."""

    extent: Extent
    evicted: tuple[Extent, ...]


class SlabSpace:
    """The extents of a buffer of `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._extents: list[Extent] = []  # taken, by address

    @property
    def used(self) -> int:
        return sum(extent.size for extent in self._extents)

    def take(self, extent: Extent) -> None:
        insort(self._extents, extent)

    def free(self, extent: Extent) -> None:
        self._extents.remove(extent)

    def plan(self, size: int, evictable: Sequence[Extent]) -> Placement | None:
        """A hole of `size`, made by evicting as few of the first `evictable` ones as possible.

        Takes the fewest candidates, in their order, that make a hole together with the free gaps
        between them; of the holes there are then, the one that costs the fewest evicted bytes.
        None when evicting all of them makes none.
        """
        num_needed = bisect_left(
            range(len(evictable) + 1), True, key=lambda num: self._fits(size, evictable[:num])
        )
        if num_needed > len(evictable):
            return None
        placements = (
            placement
            for start, stop, inside in self._stretches(evictable[:num_needed])
            for placement in _placements(size, start, stop, inside)
        )
        return min(placements, key=_cost)

    def check_integrity(self) -> None:
        """Assert that extents lie within the buffer and do not overlap."""
        end = 0
        for extent in self._extents:
            assert extent.size > 0 and extent.start >= end, f"{extent} overlaps its neighbour"
            end = extent.stop
        assert end <= self.capacity, "an extent reaches beyond the buffer"

    def _fits(self, size: int, evictable: Sequence[Extent]) -> bool:
        return any(stop - start >= size for start, stop, _ in self._stretches(evictable))

    def _stretches(self, evictable: Sequence[Extent]) -> Iterator[tuple[int, int, list[Extent]]]:
        """Maximal stretches, start and stop, of free bytes and evictable extents inside them."""
        leaving = frozenset(evictable)
        start = 0
        inside: list[Extent] = []
        for extent in self._extents:
            if extent in leaving:
                inside.append(extent)
                continue
            yield start, extent.start, inside
            start, inside = extent.stop, []
        yield start, self.capacity, inside


def _placements(size: int, start: int, stop: int, inside: list[Extent]) -> Iterator[Placement]:
    """Candidates in one stretch: from its start, and from the end of each extent inside it.

    Any other place can be moved left to one of these without evicting more.
    """
    starts = (start, *(extent.stop for extent in inside))
    for index, first in enumerate(starts):
        wanted = Extent(first, size)
        if wanted.stop <= stop:
            leaving = tuple(e for e in inside[index:] if e.start < wanted.stop)
            yield Placement(wanted, leaving)


def _cost(placement: Placement) -> tuple[int, int]:
    return sum(extent.size for extent in placement.evicted), placement.extent.start
