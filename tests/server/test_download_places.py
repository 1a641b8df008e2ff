"""Whom a download makes wait: over a hub on real sockets whose peers hang or drip."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from hub_stand_in import WEIGHTS, HubStandIn, adapter_repository, serving_hub
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.downloads import DownloadLimits
from lorax_serve.server.errors import ServeError
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.source import Source
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota

PATIENCE = 60.0  # seconds: what does not come about by then never does


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[HubStandIn]:
    hub = HubStandIn()
    hub.repositories["org/open"] = adapter_repository()
    async with serving_hub(hub):
        yield hub


@asynccontextmanager
async def serving(
    hub: HubStandIn, folder: Path, *sources: str, **limits: float
) -> AsyncIterator[RemoteAdapters]:
    """The hub under each of these names, none of which gives a silent peer up."""
    served: dict[str, Source] = {}
    for name in sources:
        source = HubSource(hub.url, stall_seconds=PATIENCE)
        source.name = name
        served[name] = source
    store = AdapterStore(folder, Quota(max_bytes=2**30, free_share=0, free_bytes=0))
    downloads = DownloadLimits(**limits)  # type: ignore[arg-type]
    adapters = RemoteAdapters(served, store, FetchLimits(downloads=downloads))
    try:
        yield adapters
    finally:
        hub.released.set()
        await adapters.close()


def repositories(hub: HubStandIn, number: int) -> list[str]:
    names = [f"org/n{n}" for n in range(number)]
    for n, name in enumerate(names):
        hub.repositories[name] = adapter_repository(bytes([n]) + WEIGHTS)
    return names


async def get(adapters: RemoteAdapters, name: str, source: str = "hub") -> bytes:
    """Its weights."""
    async with asyncio.timeout(PATIENCE / 2):
        _, lease = await adapters.lease(source, name, None)
    return (lease.path / "adapter_model.safetensors").read_bytes()


def begin(
    adapters: RemoteAdapters, names: list[str], source: str = "hub"
) -> list[asyncio.Task[bytes]]:
    return [asyncio.create_task(get(adapters, name, source)) for name in names]


async def until_asked(hub: HubStandIn, number: int) -> None:
    """So many requests for weights have come, and no more of them come."""
    while hub.num_weight_requests < number:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert hub.num_weight_requests == number


async def test_however_many_hang_others_of_the_same_source_go_on(
    hub: HubStandIn, tmp_path: Path
) -> None:
    async with serving(hub, tmp_path, "hub", number=2, stall_seconds=0.1) as adapters:
        hub.held.update(names := repositories(hub, 5))
        slow = begin(adapters, names)
        assert await get(adapters, "org/open") == WEIGHTS
        assert not any(task.done() for task in slow)
        hub.released.set()
        assert len(await asyncio.gather(*slow)) == 5


async def test_however_many_drip_others_of_the_same_source_go_on(
    hub: HubStandIn, tmp_path: Path
) -> None:
    async with serving(hub, tmp_path, "hub", number=2, stall_seconds=0.2) as adapters:
        hub.dripping.update(names := repositories(hub, 4))
        slow = begin(adapters, names)
        await until_asked(hub, 2)
        assert await get(adapters, "org/open") == WEIGHTS
        assert not any(task.done() for task in slow)
        hub.released.set()
        assert len(await asyncio.gather(*slow)) == 4


async def test_places_are_each_sources_own(hub: HubStandIn, tmp_path: Path) -> None:
    async with serving(hub, tmp_path, "hub", "pbase", number=1, stall_seconds=PATIENCE) as adapters:
        hub.held.update(names := repositories(hub, 2))
        slow = begin(adapters, names)
        await until_asked(hub, 1)
        assert await get(adapters, "org/open", "pbase") == WEIGHTS
        assert not any(task.done() for task in slow)


async def test_all_sources_together_have_twice_as_many(hub: HubStandIn, tmp_path: Path) -> None:
    async with serving(
        hub, tmp_path, "hub", "s3", "pbase", number=1, stall_seconds=PATIENCE
    ) as adapters:
        names = repositories(hub, 3)
        hub.held.update(names)
        slow = [
            begin(adapters, [name], source)[0]
            for name, source in zip(names, ("hub", "s3", "pbase"), strict=True)
        ]
        await until_asked(hub, 2)
        hub.released.set()
        await asyncio.gather(*slow)


async def test_who_gives_up_in_the_queue_takes_no_place_along(
    hub: HubStandIn, tmp_path: Path
) -> None:
    async with serving(
        hub, tmp_path, "hub", "s3", "pbase", number=1, stall_seconds=PATIENCE
    ) as adapters:
        hub.held.update(names := repositories(hub, 2))
        slow = begin(adapters, names[:1]) + begin(adapters, names[1:], "s3")
        await until_asked(hub, 2)
        (waiting,) = begin(adapters, ["org/open"], "pbase")  # it has pbase's place, and no shared
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.wait([waiting])
        hub.released.set()
        await asyncio.gather(*slow)
        assert await get(adapters, "org/open", "pbase") == WEIGHTS


async def test_no_more_downloads_at_a_time_than_permitted(hub: HubStandIn, tmp_path: Path) -> None:
    async with serving(hub, tmp_path, "hub", number=2, stall_seconds=PATIENCE) as adapters:
        hub.held.update(names := repositories(hub, 5))
        asked = begin(adapters, names)
        await until_asked(hub, 2)
        hub.released.set()
        await asyncio.gather(*asked)


async def test_one_that_drips_is_given_up_and_goes_on_where_it_was(
    hub: HubStandIn, tmp_path: Path
) -> None:
    async with serving(
        hub, tmp_path, "hub", stall_seconds=0.1, least_rate=100, pace_seconds=0.5
    ) as adapters:
        hub.dripping.update(names := repositories(hub, 1))
        with pytest.raises(ServeError) as caught, capture_logs() as logs:
            await get(adapters, names[0])
        assert caught.value.code is ErrorCode.ADAPTER_UNAVAILABLE
        assert [line["reason"] for line in logs if line["event"] == "adapter_source_failed"] == [
            "slower than 100 bytes a second"
        ]
        hub.dripping.clear()
        assert await get(adapters, names[0]) == b"\0" + WEIGHTS
        ranges = [seen.range for seen in hub.paths("safetensors") if seen.on_network]
        assert ranges[0] is None and ranges[1] is not None


async def test_one_that_is_slow_but_fast_enough_is_waited_for(
    hub: HubStandIn, tmp_path: Path
) -> None:
    async with serving(
        hub, tmp_path, "hub", stall_seconds=0.1, least_rate=5, pace_seconds=0.4
    ) as adapters:
        hub.dripping.update(names := repositories(hub, 1))  # 20 bytes a second
        (slow,) = begin(adapters, names)
        await asyncio.sleep(1.5)
        assert not slow.done()
        hub.released.set()
        await slow
