"""The least that a peer has to send to be waited for.

A silent peer is given up by its source. One that sends a byte now and then is silent to nobody, and
would be waited for until every deadline.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lorax_serve.server.sources.source import SourceUnavailable


class Pace:
    """Each `least_bytes` have to come within `seconds`, and so have the last ones of a file."""

    def __init__(
        self, limit: asyncio.Timeout, num_missing: int, *, least_bytes: float, seconds: float
    ) -> None:
        self._limit = limit
        self._num_missing = num_missing
        self._least_bytes = least_bytes
        self._seconds = seconds
        self._due = least_bytes

    def heard(self, num_bytes: int) -> None:
        """So many bytes more; fewer than none where the file is begun anew."""
        self._num_missing -= num_bytes
        self._due -= max(0, num_bytes)
        if self._num_missing <= 0:  # what is left to be done is this machine's
            self._limit.reschedule(None)
        elif self._due <= 0:
            self._due = self._least_bytes
            self._limit.reschedule(asyncio.get_running_loop().time() + self._seconds)


@asynccontextmanager
async def least_pace(num_missing: int, *, rate: float, seconds: float) -> AsyncIterator[Pace]:
    """Ends what is inside when `num_missing` bytes come at less than `rate` a second, on average
    over `seconds`. Raises SourceUnavailable.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            yield Pace(limit, num_missing, least_bytes=rate * seconds, seconds=seconds)
    except TimeoutError:
        if not limit.expired():
            raise
        raise SourceUnavailable(f"slower than {rate:g} bytes a second") from None
