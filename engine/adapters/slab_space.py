"""Which bytes of a buffer are taken. Integers only: the buffer itself is somebody else's.

Only the taken extents are kept, in order of address; the free gaps are what lies between them, so
neighbouring gaps are one by nature and free plus used is always the capacity.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from typing import NamedTuple


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    start: int
    size: int

    @property
    def stop(self) -> int:
        return self.start + self.size

    def overlaps(self, other: "Extent") -> bool:
        return self.start < other.stop and other.start < self.stop


@dataclass(frozen=True, slots=True)
class Placement:
    """Where something would go, and what has to leave first."""

    extent: Extent
    evicted: tuple[Extent, ...]


class SlabSpace:
    """The extents of a buffer of `capacity` bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._extents: list[Extent] = []  # taken, by address

    def take(self, extent: Extent) -> None:
        insort(self._extents, extent)
        self.used += extent.size

    def free(self, extent: Extent) -> None:
        index = bisect_left(self._extents, extent)
        assert self._extents[index] == extent, f"{extent} is not taken"
        del self._extents[index]
        self.used -= extent.size

    def plan(
        self, size: int, values: Mapping[Extent, float], *, reserved: Collection[Extent] = ()
    ) -> Placement | None:
        """A hole of `size`, made where it loses the least value.

        `values` names the extents that may be evicted, and what each is worth, at least 0; none of
        them reaches into a `reserved` one, and neither does the hole. Of all
        contiguous holes the one is taken whose evicted extents are worth the least together; of
        equal ones the one that evicts the fewest bytes, then the one with the lowest address.
        None when evicting all of them makes none. Takes one pass over the extents.
        """
        holes = (
            hole
            for start, stop, inside in self._stretches(values, reserved)
            for hole in _holes(size, start, stop, inside, values)
        )
        best = min(holes, default=None)
        if best is None:
            return None
        wanted = Extent(best.start, size)
        first = bisect_left(self._extents, wanted.start, key=lambda extent: extent.start)
        last = bisect_left(self._extents, wanted.stop, key=lambda extent: extent.start)
        return Placement(wanted, tuple(self._extents[first:last]))

    def largest_hole(self, staying: Container[Extent]) -> int:
        """Bytes of the largest stretch that there would be with nothing but `staying` here."""
        largest = start = 0
        for extent in self._extents:
            if extent in staying:
                largest = max(largest, extent.start - start)
                start = extent.stop
        return max(largest, self.capacity - start)

    def check_integrity(self) -> None:
        """Assert that extents lie within the buffer and do not overlap."""
        end = 0
        for extent in self._extents:
            assert extent.size > 0 and extent.start >= end, f"{extent} overlaps its neighbour"
            end = extent.stop
        assert end <= self.capacity, "an extent reaches beyond the buffer"
        assert self.used == sum(extent.size for extent in self._extents)

    def _stretches(
        self, evictable: Mapping[Extent, float], reserved: Collection[Extent]
    ) -> Iterator[tuple[int, int, list[Extent]]]:
        """Maximal stretches, start and stop, of free bytes and evictable extents inside them."""
        start = 0
        inside: list[Extent] = []
        for extent in merge(self._extents, sorted(reserved)):
            if extent in evictable:
                inside.append(extent)
                continue
            yield start, extent.start, inside
            start, inside = max(start, extent.stop), []
        yield start, self.capacity, inside


class _Hole(NamedTuple):
    """The better one compares less."""

    value: float
    num_evicted_bytes: int
    start: int


def _holes(
    size: int, start: int, stop: int, inside: list[Extent], values: Mapping[Extent, float]
) -> Iterator[_Hole]:
    """Candidates in one stretch: at its start, and after each extent inside it.

    Any other hole can be moved left to one of these without evicting more. Both ends of the window
    of evicted extents only move right; its value is summed anew whenever it has been empty, so
    that rounding does not pile up.
    """
    window_start = window_stop = 0  # indices into `inside`
    value, num_bytes = 0.0, 0
    for index in range(len(inside) + 1):
        hole_start = start if index == 0 else inside[index - 1].stop
        if hole_start + size > stop:
            return
        if window_start < index:  # the extent before the hole; it was in the window if any was
            if window_stop > window_start:
                value -= values[inside[window_start]]
                num_bytes -= inside[window_start].size
            window_start = index
            window_stop = max(window_stop, index)
        if window_start == window_stop:
            value = 0.0
        while window_stop < len(inside) and inside[window_stop].start < hole_start + size:
            value += values[inside[window_stop]]
            num_bytes += inside[window_stop].size
            window_stop += 1
        yield _Hole(value, num_bytes, hole_start)
