"""What somebody may have meant who named an adapter that is not there.

Only of adapters on this machine that every caller may use: of all others nobody is to learn from an
error that they exist.
"""

import asyncio
import contextlib
import difflib
import heapq
import math
import operator
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from lorax_serve.server.errors import ServeError

_SECONDS: Final = 10.0  # a list is looked at again so often, however many errors there are
_MAX_COMPARED: Final = 200  # names, in full, for one error
_MAX_CHARS: Final = 128  # of a name that anything is looked for
_LIKENESS: Final = 0.7  # as difflib measures it


class NameHints:
    def __init__(
        self,
        names: Callable[[], Awaitable[Sequence[str]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Where `names` raises ServeError there are no hints for a while."""
        self._names = names
        self._clock = clock
        self._known: Sequence[str] = ()
        self._known_until = -math.inf
        self._looking = asyncio.Lock()

    async def closest(self, name: str) -> str | None:
        """The name most like `name`, if one is like it."""
        if len(name) > _MAX_CHARS:
            return None
        async with self._looking:
            if self._clock() >= self._known_until:
                self._known = ()
                with contextlib.suppress(ServeError):
                    self._known = await self._names()
                self._known_until = self._clock() + _SECONDS
            return await asyncio.to_thread(_closest, name, self._known)


def _closest(name: str, names: Sequence[str]) -> str | None:
    def likeness(other: str) -> int:
        """At a glance: characters that are the same, counted from the front and from the back."""
        front: int = sum(map(operator.eq, name, other))
        back: int = sum(map(operator.eq, reversed(name), reversed(other)))
        return front + back

    near = heapq.nlargest(_MAX_COMPARED, names, key=likeness)
    found = difflib.get_close_matches(name, near, 1, _LIKENESS)
    return found[0] if found else None
