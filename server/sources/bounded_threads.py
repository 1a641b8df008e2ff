"""Blocking calls that nobody has to wait for.

Not an executor of concurrent.futures: the interpreter waits at its end for those threads, so one
silent peer would hold up the server's exit.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


class BoundedThreads:
    """At most `limit` calls at a time, each in a daemon thread."""

    def __init__(self, limit: int) -> None:
        self._places = asyncio.Semaphore(limit)

    async def run(self, call: Callable[[], R], discard: Callable[[R], None] | None = None) -> R:
        """What `call` returns or raises.

        Whoever is cancelled leaves at once. The call then keeps its place until it ends, and
        `discard` gets what it returned.
        """
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[R] = loop.create_future()

        def succeed(result: R) -> None:
            self._places.release()
            if not waiter.done():
                waiter.set_result(result)
            elif discard is not None:
                discard(result)

        def fail(error: BaseException) -> None:
            self._places.release()
            if not waiter.done():
                waiter.set_exception(error)

        def work() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody wants it
                try:
                    result = call()
                except BaseException as error:
                    loop.call_soon_threadsafe(fail, error)
                else:
                    loop.call_soon_threadsafe(succeed, result)

        try:
            threading.Thread(target=work, daemon=True).start()
        except BaseException:
            self._places.release()
            raise
        return await waiter
