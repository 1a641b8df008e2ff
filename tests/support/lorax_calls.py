"""Calls of the published lorax-client, which blocks, at a server on the same loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from lorax import Client

from wire import Wire

T = TypeVar("T")


async def call(wire: Wire, use: Callable[[Client], T]) -> T:
    """The client blocks, so it gets a thread."""
    client = Client(wire.url)
    try:
        return await asyncio.to_thread(use, client)
    finally:
        if client.session is not None:
            client.session.close()
