"""Which bytes of a buffer are taken. Integers only: the buffer itself is somebody else's.

Taken extents are kept in order of address, and so are the free gaps between them; no two gaps
touch, and free plus used is always the capacity.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
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
        self._gaps: list[tuple[int, int]] = [(0, capacity)] if capacity else []  # start and stop

    def take(self, extent: Extent) -> None:
        index = bisect_right(self._gaps, (extent.start, self.capacity)) - 1
        assert index >= 0 and extent.stop <= self._gaps[index][1], f"{extent} is not free"
        start, stop = self._gaps[index]
        parts = (start, extent.start), (extent.stop, stop)
        self._gaps[index : index + 1] = [part for part in parts if part[0] < part[1]]
        insort(self._extents, extent)
        self.used += extent.size

    def free(self, extent: Extent) -> None:
        index = bisect_left(self._extents, extent)
        assert self._extents[index] == extent, f"{extent} is not taken"
        del self._extents[index]
        self.used -= extent.size
        start, stop = extent.start, extent.stop
        index = bisect_left(self._gaps, (start, stop))
        if index < len(self._gaps) and self._gaps[index][0] == stop:
            stop = self._gaps.pop(index)[1]
        if index > 0 and self._gaps[index - 1][1] == start:
            index -= 1
            start = self._gaps.pop(index)[0]
        self._gaps.insert(index, (start, stop))

    def plan_from(
        self,
        size: int,
        cheapest_first: Iterable[tuple[Extent, float]],
        value_of: Callable[[Extent], float | None],
    ) -> Placement | None:
        """What `plan` finds where nothing is reserved, but for who goes of those worth the same.

        `cheapest_first` are the extents that may be evicted with what each is worth, ascending;
        `value_of` says None of one that stays. Looks at few extents where most are about as large
        as the hole: a hole is worth at least what each extent inside it is, so once all holes over
        the cheapest extents are known, one that is worth less than the next extent is the best.
        """
        for start, stop in self._gaps:
            if stop - start >= size:
                return Placement(Extent(start, size), ())
        best: _Hole | None = None
        for extent, value in cheapest_first:
            if best is not None and best.value <= value:
                break
            for hole in self._holes_over(extent, size, value_of):
                best = hole if best is None else min(best, hole)
        return None if best is None else self._placement(best, size)

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
        return None if best is None else self._placement(best, size)

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
        ends = [0, *(extent.stop for extent in self._extents)]
        starts = [*(extent.start for extent in self._extents), self.capacity]
        assert self._gaps == [gap for gap in zip(ends, starts, strict=True) if gap[0] < gap[1]]

    def _placement(self, hole: "_Hole", size: int) -> Placement:
        wanted = Extent(hole.start, size)
        first = bisect_left(self._extents, wanted.start, key=lambda extent: extent.start)
        last = bisect_left(self._extents, wanted.stop, key=lambda extent: extent.start)
        return Placement(wanted, tuple(self._extents[first:last]))

    def _holes_over(
        self, extent: Extent, size: int, value_of: Callable[[Extent], float | None]
    ) -> Iterator["_Hole"]:
        """Those that evict the extent. Each begins where some extent before it ends: moved left to
        there, a hole evicts no more.
        """
        index = bisect_left(self._extents, extent)
        while True:
            start = self._extents[index - 1].stop if index else 0
            if start + size <= extent.start:
                return
            hole = self._hole(index, start, size, value_of)
            if hole is not None:
                yield hole
            if index == 0 or value_of(self._extents[index - 1]) is None:
                return
            index -= 1

    def _hole(
        self, index: int, start: int, size: int, value_of: Callable[[Extent], float | None]
    ) -> "_Hole | None":
        """The hole in the gap before the extent number `index`; None if it evicts what stays."""
        if start + size > self.capacity:
            return None
        value, num_bytes = 0.0, 0
        while index < len(self._extents) and self._extents[index].start < start + size:
            added = value_of(self._extents[index])
            if added is None:
                return None
            value += added
            num_bytes += self._extents[index].size
            index += 1
        return _Hole(value, num_bytes, start)

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
