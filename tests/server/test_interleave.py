"""Several generators read as one: nothing is lost, and none is left open."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from lorax_serve.server.interleave import interleaved


class Source:
    """Yields its items, one each time it is let; remembers that it was closed."""

    def __init__(self, *items: str | Exception, stalls: bool = False) -> None:
        self.items = items
        self.stalls = stalls
        self.begun = False
        self.closed = False

    async def run(self) -> AsyncGenerator[str, None]:
        self.begun = True
        try:
            for item in self.items:
                await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                yield item
            if self.stalls:
                await asyncio.Event().wait()
        finally:
            self.closed = True


@pytest.mark.parametrize("number", [1, 2, 5])
async def test_all_items_come_each_source_s_in_order(number: int) -> None:
    sources = [Source(*(f"{i}{letter}" for letter in "abcd")) for i in range(number)]
    got = [item async for item in interleaved([source.run() for source in sources])]
    assert sorted(got) == [f"{i}{letter}" for i in range(number) for letter in "abcd"]
    for i in range(number):
        assert [item for item in got if item.startswith(str(i))] == [f"{i}{x}" for x in "abcd"]
    assert all(source.closed for source in sources)


async def test_a_slow_one_keeps_nobody_waiting() -> None:
    slow, quick = Source("0", stalls=True), Source("1", "2", "3")
    source = interleaved([slow.run(), quick.run()])
    assert {await anext(source) for _ in range(4)} == {"0", "1", "2", "3"}
    await source.aclose()
    assert slow.closed
    assert quick.closed


async def test_one_that_fails_ends_all() -> None:
    sources = [Source("a", stalls=True), Source("b", ValueError("it broke")), Source(stalls=True)]
    got = []
    with pytest.raises(ValueError, match="it broke"):
        async for item in interleaved([source.run() for source in sources]):
            got.append(item)
    assert sorted(got) == ["a", "b"]
    assert all(source.begun and source.closed for source in sources)


async def test_cancelled_it_closes_all() -> None:
    sources = [Source("a", stalls=True), Source("b", stalls=True)]

    async def read() -> None:
        async for _ in interleaved([source.run() for source in sources]):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(source.closed for source in sources)
