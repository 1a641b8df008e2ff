"""The hub's stand-in with an open adapter and a closed one, and the source that reads it."""

from collections.abc import AsyncIterator

import pytest_asyncio

from hub_downloads import FAST, SECRET
from hub_stand_in import HubStandIn, adapter_repository, serving_hub
from lorax_serve.server.sources.hub import HubSource


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[HubStandIn]:
    made = HubStandIn()
    made.repositories["org/open"] = adapter_repository()
    made.repositories["org/closed"] = adapter_repository(tokens={SECRET})
    async with serving_hub(made):
        yield made


@pytest_asyncio.fixture
async def source(hub: HubStandIn) -> AsyncIterator[HubSource]:
    made = HubSource(hub.url, stall_seconds=0.3, retries=FAST)
    yield made
    await made.close()
