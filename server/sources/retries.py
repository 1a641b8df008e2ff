"""Asking again, and how long to wait first.

Delays are drawn with full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015):
uniformly between zero and a bound that doubles, so that callers who failed together do not come
back together.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from lorax_serve.server.sources.source import SourceUnavailable

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Times in seconds."""

    num_tries: int = 3
    first_bound: float = 0.5
    longest_wait: float = 5.0  # a source that wants more time than this is not asked again

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The first success. Raises SourceUnavailable as the last try did, all else at once."""
        for num_done in range(1, self.num_tries):
            try:
                return await attempt()
            except SourceUnavailable as error:
                delay = random.uniform(0, self.first_bound * 2 ** (num_done - 1))
                delay = max(delay, error.retry_after or 0.0)
                if delay > self.longest_wait:
                    raise
            await asyncio.sleep(delay)
        return await attempt()


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3) in its plain form; a date counts as none,
    since clocks differ.
    """
    if value is None or not (value.isascii() and value.isdigit()):
        return None
    return float(value[:6])
