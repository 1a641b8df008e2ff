"""Room for requests: places for those that are served, rooms for those that wait for a source.

A place is what a request needs to be prepared and generated for. While its adapter's source keeps
it waiting it needs none of that, so it gives the place to others and waits in a room with bounds of
its own. A source that hangs can fill that room, and takes no place from adapters that are here.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError


class Places:
    """`number` of them. Those who come back go before those who come."""

    def __init__(self, number: int) -> None:
        self._free = _Free(number)

    @asynccontextmanager
    async def take(self, number: int = 1) -> AsyncIterator["Place"]:
        """So many at once, for one request. Raises ServeError (QUEUE_FULL) when fewer are free, or
        any are waited for.
        """
        if not self._free.try_take(number):
            raise ServeError(ErrorCode.QUEUE_FULL, "The server is at its limit of open requests.")
        place = Place(self._free, number)
        try:
            yield place
        finally:
            place.leave()


class Place:
    """One request's, or several that it has together; taken at first."""

    def __init__(self, free: "_Free", number: int) -> None:
        self._free = free
        self._number = number
        self._is_taken = True

    def leave(self) -> None:
        """Let others have it."""
        if self._is_taken:
            self._is_taken = False
            self._free.give(self._number)

    async def take_again(self) -> None:
        """Waits for as many, in the order of those who come back."""
        await self._free.take(self._number)
        self._is_taken = True


class _Free:
    """A semaphore of which several are taken at once, in the order of those who wait."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_take(self, number: int) -> bool:
        if self._waiting or number > self._number:
            return False
        self._number -= number
        return True

    async def take(self, number: int) -> None:
        if self.try_take(number):
            return
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((number, taken))
        try:
            await taken
        except asyncio.CancelledError:
            if taken.cancelled():
                self._serve()  # those behind it may wait for fewer
            else:
                self.give(number)  # they came too late
            raise

    def give(self, number: int) -> None:
        self._number += number
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            number, taken = self._waiting[0]
            if not taken.cancelled():
                if number > self._number:
                    return
                self._number -= number
                taken.set_result(None)
            self._waiting.popleft()


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
