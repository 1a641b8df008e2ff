"""Places that are taken several at a time."""

import asyncio

import pytest

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.places import Place, Places


async def refusal(places: Places, number: int) -> ErrorCode:
    with pytest.raises(ServeError) as caught:
        async with places.take(number):
            raise AssertionError("there was no place")
    return caught.value.code


async def test_as_many_as_there_are() -> None:
    places = Places(5)
    async with places.take(3):
        assert await refusal(places, 3) is ErrorCode.QUEUE_FULL
        async with places.take(2):
            assert await refusal(places, 1) is ErrorCode.QUEUE_FULL
        async with places.take(2):
            pass
    async with places.take(5):
        pass


async def test_who_comes_back_gets_as_many_and_goes_first() -> None:
    places = Places(4)
    async with places.take(3) as away:
        away.leave()
        async with places.take(2), places.take(2) as late:
            back = asyncio.create_task(away.take_again())
            await asyncio.sleep(0)
            late.leave()
            await asyncio.sleep(0)
            assert not back.done()  # two are free, it needs three
            assert await refusal(places, 1) is ErrorCode.QUEUE_FULL
        await back
        assert await refusal(places, 2) is ErrorCode.QUEUE_FULL
    async with places.take(4):
        pass


@pytest.mark.parametrize("is_served", [False, True], ids=["waiting", "just served"])
async def test_who_is_cancelled_while_it_waits_keeps_nobody_waiting(is_served: bool) -> None:
    places = Places(4)
    async with places.take(4) as all_of_them:
        many, one = Place(places._free, 4), Place(places._free, 1)
        first = asyncio.create_task(many.take_again())
        second = asyncio.create_task(one.take_again())
        await asyncio.sleep(0)
        if is_served:
            all_of_them.leave()
            assert not first.done()
            first.cancel()
        else:
            first.cancel()
            await asyncio.wait({first})
            all_of_them.leave()
        await asyncio.wait({first, second}, timeout=5)
        assert first.cancelled()
        assert second.done()
        one.leave()
        many.leave()
    async with places.take(4):
        pass


async def test_those_behind_one_that_is_cancelled_may_need_fewer() -> None:
    places = Places(4)
    async with places.take(3):
        many, one = Place(places._free, 4), Place(places._free, 1)
        first = asyncio.create_task(many.take_again())
        second = asyncio.create_task(one.take_again())
        await asyncio.sleep(0)
        assert not second.done()
        first.cancel()
        await asyncio.wait({first, second}, timeout=5)
        assert second.done()
        one.leave()
    async with places.take(4):
        pass
