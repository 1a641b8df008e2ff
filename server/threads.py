"""Blocking work off the event loop."""

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_INLINE_ITEMS: Final = 1024  # a millisecond, not much more than the way to a thread and back


async def run_sized(
    num_items: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """`function`, whose work grows with `num_items`: on the spot where they are few, else on a
    thread. It must neither change what others read nor hold the interpreter lock throughout.
    """
    if num_items <= _INLINE_ITEMS:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


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
