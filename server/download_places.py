"""How many downloads go on at a time, of one source and of all, whatever becomes of some of them.

A download that gets next to nothing for a while takes nothing from others but a connection: it
gives its place to the next and goes on beside it. So peers that hang or drip delay others by
moments, not by their time-outs. There may be a few times as many of those; then others do wait.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_MAX_OPEN: Final = 16  # downloads for each place, those that gave theirs away included


class DownloadRoom:
    """Places, and a bound on who may be without one."""

    def __init__(self, number: int) -> None:
        self.places = asyncio.Semaphore(number)
        self.open = asyncio.Semaphore(_MAX_OPEN * number)


class DownloadPlaces:
    """Places for the downloads of one source; each is one of `shared`, which all sources have, too.

    A place is kept by who gets `least_rate` bytes a second or more, over `stall_seconds`.
    """

    def __init__(
        self, number: int, shared: DownloadRoom, *, stall_seconds: float, least_rate: float
    ) -> None:
        # In this order, so that who waits for the second has what others of its source wait for.
        self._rooms = (DownloadRoom(number), shared)
        self._stall_seconds = stall_seconds
        self._least_bytes = least_rate * stall_seconds

    @asynccontextmanager
    async def take(self) -> AsyncIterator["DownloadPlace"]:
        """Waits for a place. It is to be told of every byte that comes."""
        own, shared = self._rooms
        async with own.open, shared.open:
            await own.places.acquire()
            try:
                await shared.places.acquire()
            except BaseException:
                own.places.release()
                raise
            taken = (own.places, shared.places)
            place = DownloadPlace(taken, self._stall_seconds, self._least_bytes)
            try:
                yield place
            finally:
                place.leave()


class DownloadPlace:
    """One download's place, until it ends or stalls."""

    def __init__(
        self, taken: tuple[asyncio.Semaphore, ...], stall_seconds: float, least_bytes: float
    ) -> None:
        self._taken = taken
        self._stall_seconds = stall_seconds
        self._least_bytes = least_bytes
        self._loop = asyncio.get_running_loop()
        self._num_heard = 0  # since it was looked at last
        self._timer = self._loop.call_later(stall_seconds, self._check)

    def heard(self, num_bytes: int) -> None:
        """So many bytes have come."""
        self._num_heard += num_bytes

    def leave(self) -> None:
        self._timer.cancel()
        for places in self._taken:
            places.release()
        self._taken = ()

    def _check(self) -> None:
        if self._num_heard < max(1, self._least_bytes):
            self.leave()
        else:
            self._num_heard = 0
            self._timer = self._loop.call_later(self._stall_seconds, self._check)
