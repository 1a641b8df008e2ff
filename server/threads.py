"""Blocking work off the event loop, in whole pieces."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def run_whole(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`asyncio.to_thread`, but a caller that is cancelled leaves only once the thread is done.

    So whatever the function works on (an open file, a folder) can be closed or removed afterwards.
    """
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # it was told to nobody, and that is meant so
        raise
