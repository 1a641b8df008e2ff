"""When requests are sent.

A closed loop keeps a number of requests under way: a slow server is sent less. An open loop sends
each when it is due, however many are unanswered, and counts its latency from when it was due: what
a slow server, or a slow generator, adds to later requests is in their figures.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter

from load.client import Outcome
from load.plan import PlannedRequest

Send = Callable[[PlannedRequest, float | None], Awaitable[Outcome]]

WATCH_SECONDS = 0.01


async def closed_loop(
    send: Send, requests: Sequence[PlannedRequest], concurrency: int
) -> list[Outcome]:
    """Outcomes in the order of their ends."""
    waiting = iter(requests)
    outcomes: list[Outcome] = []

    async def one_after_another() -> None:
        for request in waiting:
            outcomes.append(await send(request, None))

    await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
    return outcomes


async def open_loop(send: Send, requests: Sequence[PlannedRequest]) -> list[Outcome]:
    """Outcomes in the order of the requests."""
    start = perf_counter()
    under_way = []
    for request in requests:
        due = start + request.at
        # Sleeps where nothing is left to wait for, too: it lets the requests before this one go.
        await asyncio.sleep(max(due - perf_counter(), 0))
        under_way.append(asyncio.ensure_future(send(request, due)))
    return await asyncio.gather(*under_way)


async def watch_loop(lags: list[float]) -> None:
    """Appends, a hundred times a second, by how many seconds this process is behind. Endless."""
    while True:
        before = perf_counter()
        await asyncio.sleep(WATCH_SECONDS)
        lags.append(perf_counter() - before - WATCH_SECONDS)
