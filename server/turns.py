"""Long work on the event loop, in turns with everybody else's."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

_ITEMS_A_TURN: Final = 64  # a millisecond or two


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The items one after another; after some of them whatever else is ready runs first.

    They must not change meanwhile.
    """
    for number, item in enumerate(items, 1):
        yield item
        if number % _ITEMS_A_TURN == 0:
            await asyncio.sleep(0)
