"""How many downloads of a source go on at a time, whatever becomes of some of them.

A download that gets no bytes for a while takes nothing from others but a connection: it gives its
place to the next and goes on beside it. So peers that hang delay others by moments, not by their
time-outs. There may be a few times as many of those; then others do wait.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_MAX_OPEN: Final = 16  # downloads for each place, those that gave theirs away included


class DownloadPlaces:
    """Places for the downloads of one source."""

    def __init__(self, number: int, *, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._places = asyncio.Semaphore(number)
        self._open = asyncio.Semaphore(_MAX_OPEN * number)

    @asynccontextmanager
    async def take(self) -> AsyncIterator["DownloadPlace"]:
        """Waits for a place. It is to be told of every byte that comes."""
        async with self._open:
            await self._places.acquire()
            place = DownloadPlace(self._places, self._stall_seconds)
            try:
                yield place
            finally:
                place.leave()


class DownloadPlace:
    """One download's place, until it ends or stalls."""

    def __init__(self, places: asyncio.Semaphore, stall_seconds: float) -> None:
        self._places = places
        self._stall_seconds = stall_seconds
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._is_taken = True
        self._timer = self._loop.call_later(stall_seconds, self._check)

    def heard(self) -> None:
        """Bytes have come."""
        self._heard = self._loop.time()

    def leave(self) -> None:
        self._timer.cancel()
        if self._is_taken:
            self._is_taken = False
            self._places.release()

    def _check(self) -> None:
        stalls_at = self._heard + self._stall_seconds
        if self._loop.time() < stalls_at:
            self._timer = self._loop.call_at(stalls_at, self._check)
        else:
            self.leave()
