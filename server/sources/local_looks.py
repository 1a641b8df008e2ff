"""Folders of this machine, looked at on threads.

A folder may lie on a file system that hangs for minutes, as networked ones do. Whoever asks for
what is there waits for a while and is told; no stream stops, and nobody else's look does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from lorax_serve.ipc.types import AdapterRef, ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.bounded_threads import BoundedThreads
from lorax_serve.server.sources.local import AdapterNames, LocalAdapters
from lorax_serve.server.sources.servable import servable_names

_SECONDS: Final = 10.0
_MAX_LOOKS: Final = 32  # at single folders at a time; for each name one, and one that waits for it
_MAX_LISTS: Final = 4

R = TypeVar("R")


class LocalLooks:
    def __init__(self, adapters: LocalAdapters, *, seconds: float = _SECONDS) -> None:
        """`seconds` are the longest that anybody waits."""
        self._adapters = adapters
        self._seconds = seconds
        self._looks = BoundedThreads(_MAX_LOOKS)
        self._lists = BoundedThreads(_MAX_LISTS)
        self._by_name: dict[str, _Look] = {}  # the latest of each

    async def resolve(self, adapter_id: str) -> AdapterRef:
        """As `LocalAdapters.resolve`, by a look that began after the call did.

        Raises ServeError; ADAPTER_UNAVAILABLE when the file system does not answer in time.
        """
        look = self._by_name.get(adapter_id)
        if look is None or look.has_begun:
            look = self._by_name[adapter_id] = _Look(self._look_at, adapter_id, after=look)
        return await self._in_time(asyncio.shield(look.answer))

    async def read(self, read: Callable[[], R]) -> R:
        """What `read` returns of a folder that was found. Raises what it does, and ServeError."""
        return await self._in_time(self._looks.run(read))

    async def names(self) -> AdapterNames:
        """As `LocalAdapters.list`. Raises ServeError."""
        return await self._in_time(self._lists.run(self._adapters.list))

    async def servable(self) -> list[str]:
        """As `servable_names`. Raises ServeError."""
        return await self._in_time(self._lists.run(lambda: servable_names(self._adapters)))

    async def _look_at(self, adapter_id: str, look: "_Look") -> AdapterRef:
        def resolve() -> AdapterRef:
            look.has_begun = True
            return self._adapters.resolve(adapter_id)

        try:
            return await self._looks.run(resolve)
        finally:
            if self._by_name.get(adapter_id) is look:
                del self._by_name[adapter_id]

    async def _in_time(self, answer: Awaitable[R]) -> R:
        try:
            async with asyncio.timeout(self._seconds):
                return await answer
        except TimeoutError:
            raise ServeError(
                ErrorCode.ADAPTER_UNAVAILABLE, "The adapter's folder could not be read in time."
            ) from None


class _Look:
    """One look at a name's folder, for all who asked before it began."""

    def __init__(
        self,
        look_at: Callable[[str, "_Look"], Awaitable[AdapterRef]],
        adapter_id: str,
        *,
        after: "_Look | None",
    ) -> None:
        """It waits for the one before, so that a name has one thread however often it is asked."""
        self.has_begun = False
        self.answer = asyncio.create_task(self._run(look_at, adapter_id, after))
        self.answer.add_done_callback(_note)

    async def _run(
        self,
        look_at: Callable[[str, "_Look"], Awaitable[AdapterRef]],
        adapter_id: str,
        after: "_Look | None",
    ) -> AdapterRef:
        if after is not None:
            await asyncio.wait((after.answer,))
        return await look_at(adapter_id, self)


def _note(answer: asyncio.Task[AdapterRef]) -> None:
    """Take note of an error, though whoever asked has left."""
    if not answer.cancelled():
        answer.exception()
