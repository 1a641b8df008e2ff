"""A hub on real sockets with an open adapter and one that is Alice's, and what serves them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from hub_site import ALICE, OTHER, Site, make_site
from hub_stand_in import HubStandIn, adapter_repository, serving_hub


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    hub = HubStandIn()
    hub.repositories["org/open"] = adapter_repository()
    hub.repositories["org/closed"] = adapter_repository(OTHER, tokens={ALICE})
    async with serving_hub(hub):
        made = make_site(hub, tmp_path / "store")
        yield made
        await made.adapters.close()
