"""The residents of a tier by what evicting them loses, kept in order as they are used.

What a resident is worth changes as the tier's clock goes on, but of two that are equally large the
one with the higher priority is always worth more. So there is one sorted list for each size, of
which there are few: adapters trained by one recipe are equally large.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from heapq import merge
from typing import Generic, TypeVar

from lorax_serve.engine.adapters.eviction import Resident

ResidentT = TypeVar("ResidentT", bound=Resident)

_Entry = tuple[float, int, ResidentT]  # priority, and when it was put: no two at one time


class EvictionOrder(Generic[ResidentT]):
    def __init__(self, value: Callable[[Resident], float]) -> None:
        """`value` grows with the priority of residents of one size."""
        self._value = value
        self._num_puts = 0
        self._by_size: dict[int, list[_Entry[ResidentT]]] = {}  # none of them empty
        self._entries: dict[ResidentT, _Entry[ResidentT]] = {}

    def put(self, resident: ResidentT) -> None:
        """The resident comes, or its priority has changed."""
        if resident in self._entries:
            self.remove(resident)
        self._num_puts += 1
        entry = resident.priority, self._num_puts, resident
        self._entries[resident] = entry
        insort(self._by_size.setdefault(resident.num_bytes, []), entry)

    def remove(self, resident: ResidentT) -> None:
        entry = self._entries.pop(resident)
        entries = self._by_size[resident.num_bytes]
        del entries[bisect_left(entries, entry)]
        if not entries:
            del self._by_size[resident.num_bytes]

    def __iter__(self) -> Iterator[ResidentT]:
        """Those worth least first; of equal ones of a size, whoever was put first."""
        lists = [(entry[2] for entry in entries) for entries in self._by_size.values()]
        return merge(*lists, key=self._value)
