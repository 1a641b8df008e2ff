import asyncio
import threading

import pytest

from lorax_serve.server.sources.bounded_threads import BoundedThreads


async def test_results_and_errors_come_back() -> None:
    threads = BoundedThreads(2)
    assert await threads.run(lambda: 7) == 7
    with pytest.raises(KeyError, match="gone"):
        await threads.run(lambda: {}["gone"])
    for _ in range(5):  # each gave its place back
        assert await threads.run(threading.current_thread) is not threading.current_thread()


async def test_no_more_calls_than_places() -> None:
    threads = BoundedThreads(3)
    inside, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(3)  # three at once, or nobody gets on

    def call() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        gate.wait(10)
        with lock:
            inside -= 1

    await asyncio.gather(*(threads.run(call) for _ in range(12)))
    assert most == 3


async def test_who_is_cancelled_leaves_and_the_call_keeps_its_place() -> None:
    threads = BoundedThreads(1)
    started, ending = threading.Event(), threading.Event()
    discarded: list[str] = []

    def call() -> str:
        started.set()
        ending.wait(10)
        return "late"

    first = asyncio.create_task(threads.run(call, discarded.append))
    while not started.is_set():
        await asyncio.sleep(0.001)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(threads.run(lambda: "second"))
    await asyncio.sleep(0.05)
    assert not second.done() and not discarded
    ending.set()
    assert await second == "second"
    assert discarded == ["late"]


def test_a_hanging_call_does_not_hold_up_the_end() -> None:
    """Neither of the loop nor of the interpreter: the thread is a daemon."""
    ending = threading.Event()
    seen: list[threading.Thread] = []

    def call() -> None:
        seen.append(threading.current_thread())
        ending.wait(10)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await BoundedThreads(1).run(call)

    asyncio.run(give_up())
    assert seen[0].is_alive() and seen[0].daemon
    ending.set()
    seen[0].join(10)
    assert not seen[0].is_alive()
