"""Several generations read as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar

T = TypeVar("T")


async def interleaved(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """What any of them yields, as it comes; each is begun in their order.

    When one raises, or this is closed, all are closed, and what was raised is.
    """
    if len(sources) == 1:
        async with aclosing(sources[0]):
            async for item in sources[0]:
                yield item
        return
    arrived: asyncio.Queue[_Item[T] | _End] = asyncio.Queue()
    tasks = [asyncio.create_task(_forward(source, arrived)) for source in sources]
    try:
        num_open = len(tasks)
        while num_open:
            event = await arrived.get()
            if isinstance(event, _Item):
                yield event.value
            elif event.error is not None:
                raise event.error
            else:
                num_open -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Item(Generic[T]):
    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class _End:
    __slots__ = ("error",)

    def __init__(self, error: Exception | None) -> None:
        self.error = error


async def _forward(
    source: AsyncGenerator[T, None], arrived: "asyncio.Queue[_Item[T] | _End]"
) -> None:
    error: Exception | None = None
    try:
        async with aclosing(source):
            async for item in source:
                arrived.put_nowait(_Item(item))
    except Exception as raised:
        error = raised
    arrived.put_nowait(_End(error))
