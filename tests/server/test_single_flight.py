"""Shared work: begun once, ended when nobody waits, its result given away once."""

import asyncio

import pytest

from lorax_serve.server.single_flight import SingleFlight


class Work:
    def __init__(self) -> None:
        self.num_begun = 0
        self.num_cancelled = 0
        self.may_end = asyncio.Event()

    async def run(self) -> int:
        self.num_begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # cleaning up takes its time
            self.num_cancelled += 1
            raise
        return self.num_begun


async def joined(flights: SingleFlight[str, int], work: Work) -> int:
    async with flights.join("key", work.run) as result:
        return result


async def test_all_who_wait_get_one_result_and_the_last_gives_it_away() -> None:
    discarded: list[int] = []
    flights: SingleFlight[str, int] = SingleFlight(discarded.append)
    work = Work()
    waiting = [asyncio.create_task(joined(flights, work)) for _ in range(10)]
    await asyncio.sleep(0)
    work.may_end.set()
    assert await asyncio.gather(*waiting) == [1] * 10
    assert discarded == [1]
    assert len(flights) == 0
    assert await joined(flights, work) == 2
    assert discarded == [1, 2]


@pytest.mark.parametrize("num_turns", range(6))
async def test_a_waiter_may_leave_at_any_moment(num_turns: int) -> None:
    """Even before the work has begun; who comes then begins anew, after the cleaning up."""
    discarded: list[int] = []
    flights: SingleFlight[str, int] = SingleFlight(discarded.append)
    work = Work()
    first = asyncio.create_task(joined(flights, work))
    for _ in range(num_turns):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first,))
    second = asyncio.create_task(joined(flights, work))
    async with asyncio.timeout(5):
        while work.num_begun == work.num_cancelled:
            await asyncio.sleep(0.001)
        assert work.num_begun - work.num_cancelled == 1
        work.may_end.set()
        assert await second == work.num_begun
    assert discarded == [work.num_begun]
    assert len(flights) == 0


async def test_all_who_wait_hear_of_a_failure() -> None:
    flights: SingleFlight[str, int] = SingleFlight()

    async def fails() -> int:
        await asyncio.sleep(0)
        raise KeyError("x")

    async def join() -> int:
        async with flights.join("key", fails) as result:
            return result

    said = await asyncio.gather(*(join() for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in said] == [KeyError] * 3
    assert len(flights) == 0
