"""Waiting for what other tasks and threads do, with an end: a test fails instead of hanging."""

import asyncio
from collections.abc import Callable

PATIENCE_SECONDS = 30  # for what should have happened long ago


async def until(holds: Callable[[], object]) -> None:
    """Return once it holds. Raises TimeoutError where it never does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.001)
