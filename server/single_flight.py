"""One piece of work for all who want its result at the same time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(eq=False, slots=True)
class _Flight(Generic[V]):
    task: asyncio.Task[V]
    num_waiting: int = 0
    has_landed: bool = False


class SingleFlight(Generic[K, V]):
    """Work by key, which goes on while anybody waits for it and is cancelled when nobody does.

    `discard` gets a result once everybody who waited for it has left.
    """

    def __init__(self, discard: Callable[[V], None] = lambda value: None) -> None:
        self._discard = discard
        self._flights: dict[K, _Flight[V]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    @asynccontextmanager
    async def join(self, key: K, start: Callable[[], Coroutine[Any, Any, V]]) -> AsyncIterator[V]:
        """The result of the work for `key`, which is `start`'s if there is none yet.

        Raises what the work raises: the same to everybody who waited.
        """
        while (flight := self._flights.get(key)) is not None and not flight.num_waiting:
            await asyncio.wait((flight.task,))  # it was cancelled, and is still cleaning up
        if flight is None:
            flight = self._begin(key, start)
        flight.num_waiting += 1
        try:
            yield await asyncio.shield(flight.task)
        finally:
            flight.num_waiting -= 1
            self._settle(flight)

    def _begin(self, key: K, start: Callable[[], Coroutine[Any, Any, V]]) -> _Flight[V]:
        flight = _Flight(asyncio.create_task(start()))
        self._flights[key] = flight

        def land(task: asyncio.Task[V]) -> None:
            del self._flights[key]
            flight.has_landed = True
            self._settle(flight)

        flight.task.add_done_callback(land)
        return flight

    def _settle(self, flight: _Flight[V]) -> None:
        """See to a flight that nobody waits for any more."""
        if flight.num_waiting:
            return
        if not flight.task.done():
            flight.task.cancel()
        elif flight.has_landed and not flight.task.cancelled() and not flight.task.exception():
            self._discard(flight.task.result())
