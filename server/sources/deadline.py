"""The longest that a source may take, as one of its own failures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lorax_serve.server.sources.source import SourceUnavailable


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Ends what is inside when the time is over. Raises SourceUnavailable."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise SourceUnavailable(f"not done within {seconds:g} seconds") from None
