"""Room for requests: places for those that are served, rooms for those that wait for a source.

A place is what a request needs to be prepared and generated for. While its adapter's source keeps
it waiting it needs none of that, so it gives the place to others and waits in a room with bounds of
its own. A source that hangs can fill that room, and takes no place from adapters that are here.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError


class Places:
    """`number` of them. Those who come back go before those who come."""

    def __init__(self, number: int) -> None:
        self._free = asyncio.Semaphore(number)

    @asynccontextmanager
    async def take(self) -> AsyncIterator["Place"]:
        """Raises ServeError (QUEUE_FULL) when all are taken, or waited for."""
        if self._free.locked():
            raise ServeError(ErrorCode.QUEUE_FULL, "The server is at its limit of open requests.")
        await self._free.acquire()
        place = Place(self._free)
        try:
            yield place
        finally:
            place.leave()


class Place:
    """One request's, taken at first."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free = free
        self._is_taken = True

    def leave(self) -> None:
        """Let others have it."""
        if self._is_taken:
            self._is_taken = False
            self._free.release()

    async def take_again(self) -> None:
        """Waits for one, in the order of those who come back."""
        await self._free.acquire()
        self._is_taken = True


class WaitingRoom:
    """At most `number` at a time, and at most `number_each` that wait for the same."""

    def __init__(self, number: int, *, number_each: int) -> None:
        self._number = number
        self._number_each = number_each
        self._waiting: Counter[Hashable] = Counter()
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def has_room(self, key: Hashable) -> bool:
        return self._waiting[key] < self._number_each and self._num_waiting < self._number

    @contextmanager
    def enter(self, key: Hashable) -> Iterator[None]:
        """Wait for `key` in there. Raises ServeError (ADAPTER_QUEUE_FULL)."""
        if not self.has_room(key):
            raise ServeError(
                ErrorCode.ADAPTER_QUEUE_FULL,
                "Too many requests wait for this adapter's source, or for sources at all.",
            )
        self._num_waiting += 1
        self._waiting[key] += 1
        try:
            yield
        finally:
            self._num_waiting -= 1
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
