"""Requests that wait for a source, beside those that do not: over HTTP, with a hub that hangs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from fake_engine import FakeEngine, Tokens
from hub_stand_in import WEIGHTS, Fault, HubStandIn, adapter_repository, serving_hub
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.app import build_app
from lorax_serve.server.errors import ServeError
from lorax_serve.server.places import Places, WaitingRoom
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.service import Limits
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota
from lorax_serve.server.verdicts import TRUE_SECONDS, Verdicts
from set_clock import Clock
from wire import make_service

NUM_PLACES, NUM_WAITING = 3, 6
ALICE = "hf_of_alice"


@dataclass
class Site:
    hub: HubStandIn
    engine: FakeEngine
    client: TestClient[web.Request, web.Application]
    clock: Clock

    async def ask(self, adapter: str, source: str = "hub", token: str | None = None) -> int:
        return (await self.reply(adapter, source, token)).status

    async def reply(
        self, adapter: str, source: str = "hub", token: str | None = None
    ) -> ClientResponse:
        body = {"model": adapter, "prompt": "x", "adapter_source": source, "api_token": token}
        reply = await self.client.post("/v1/completions", json=body)
        await reply.read()
        return reply

    async def hang(self, adapter: str, number: int) -> list[asyncio.Task[int]]:
        """So many requests for it, and those that are refused at once have ended."""
        tasks = [asyncio.create_task(self.ask(adapter)) for _ in range(number)]
        await asyncio.wait(tasks, timeout=0.3)
        return tasks


@asynccontextmanager
async def site_of(files: Path, folder: Path) -> AsyncIterator[Site]:
    hub, clock = HubStandIn(), Clock()
    for name in ("org/stored", "org/cold", "org/colder", "org/coldest"):
        hub.repositories[name] = adapter_repository(name.encode() + WEIGHTS)
    hub.repositories["org/mine"] = adapter_repository(WEIGHTS[::-1], tokens={ALICE})
    hub.held |= {"org/cold", "org/colder", "org/coldest"}
    engine = FakeEngine([Tokens([5], FinishReason.LENGTH)])
    async with serving_hub(hub):
        remote = RemoteAdapters(
            {"hub": HubSource(hub.url, stall_seconds=60.0)},
            AdapterStore(folder, Quota(max_bytes=2**30, free_share=0, free_bytes=0)),
            FetchLimits(max_waiting=NUM_WAITING),
            Verdicts(clock),
        )
        limits = Limits(max_concurrent_requests=NUM_PLACES)
        service = make_service(files, engine, limits, remote)
        async with TestClient(TestServer(build_app(service))) as client:
            yield Site(hub, engine, client, clock)
        service.tokenizer.close()


async def test_a_cold_adapter_takes_no_place_from_those_that_are_here(
    wire_files: Path, tmp_path: Path
) -> None:
    async with site_of(wire_files, tmp_path) as site:
        assert await site.ask("org/stored") == 200
        cold = await site.hang("org/cold", 2 * NUM_PLACES)
        assert len([task for task in cold if not task.done()]) == NUM_WAITING // 2
        assert {task.result() for task in cold if task.done()} == {429}
        for adapter, source in [("org/stored", "hub"), ("alice", "local"), ("", "local")] * 3:
            assert await site.ask(adapter, source) == 200
        site.hub.released.set()
        assert {task.result() for task in (await asyncio.wait(cold))[0]} == {200, 429}
        assert await site.ask("org/cold") == 200


async def test_the_refusal_has_a_code_of_its_own_and_says_when_to_come_again(
    wire_files: Path, tmp_path: Path
) -> None:
    async with site_of(wire_files, tmp_path) as site:
        await site.hang("org/cold", NUM_WAITING // 2)
        reply = await site.reply("org/cold")
        assert reply.status == 429 and int(reply.headers["Retry-After"]) > 0
        error = (await reply.json())["error"]
        assert (error["code"], error["type"]) == ("adapter_queue_full", "overloaded_error")
        await site.hang("org/colder", NUM_WAITING // 2)
        reply = await site.reply("org/coldest")
        assert (await reply.json())["error"]["code"] == "adapter_queue_full"
        assert await site.ask("org/stored") == 429, "it is not here yet"
        assert len(site.hub.paths("org/coldest")) == 0, "the hub is not asked for who cannot wait"


async def test_who_waits_for_a_proof_alone_is_not_crowded_out_by_downloads(
    wire_files: Path, tmp_path: Path
) -> None:
    async with site_of(wire_files, tmp_path) as site:
        assert await site.ask("org/mine", token=ALICE) == 200
        await site.hang("org/cold", NUM_WAITING)
        await site.hang("org/colder", NUM_WAITING)
        site.clock.now += TRUE_SECONDS + 1
        assert await site.ask("org/mine", token=ALICE) == 200


async def test_a_hub_that_says_nothing_takes_no_places_either(
    wire_files: Path, tmp_path: Path
) -> None:
    async with site_of(wire_files, tmp_path) as site:
        site.hub.faults = [Fault("stall", on_info=True)]
        waiting = await site.hang("org/stored", 2 * NUM_PLACES)
        assert len([task for task in waiting if not task.done()]) == NUM_WAITING // 2
        assert await site.ask("alice", "local") == 200
        site.hub.released.set()
        await asyncio.wait(waiting)


async def test_what_is_anybodys_and_here_is_served_when_there_is_no_room_to_wait_for_news(
    wire_files: Path, tmp_path: Path
) -> None:
    async with site_of(wire_files, tmp_path) as site:
        assert await site.ask("org/stored") == 200
        assert await site.ask("org/mine", token=ALICE) == 200
        site.clock.now += TRUE_SECONDS + 1
        site.hub.faults = [Fault("stall", on_info=True) for _ in range(9)]
        waiting = await site.hang("org/stored", NUM_WAITING // 2)
        assert not any(task.done() for task in waiting)
        for _ in range(2 * NUM_PLACES):
            assert await site.ask("org/stored") == 200
        mine = [
            asyncio.create_task(site.ask("org/mine", token=ALICE)) for _ in range(NUM_WAITING // 2)
        ]
        await asyncio.sleep(0.2)
        assert await site.ask("org/mine", token=ALICE) == 429, "its owner has to be asked for"
        assert await site.ask("org/stored") == 200
        site.hub.released.set()
        answers = await asyncio.gather(*waiting, *mine)
        assert set(answers) == {200}


async def test_who_leaves_leaves_the_room(wire_files: Path, tmp_path: Path) -> None:
    async with site_of(wire_files, tmp_path) as site:
        for task in (left := await site.hang("org/cold", NUM_WAITING // 2)):
            task.cancel()
        await asyncio.wait(left)
        await asyncio.sleep(0.1)  # for the server to notice
        again = await site.hang("org/cold", NUM_WAITING // 2)
        assert not any(task.done() for task in again)
        site.hub.released.set()
        assert {task.result() for task in (await asyncio.wait(again))[0]} == {200}


async def test_who_comes_back_waits_for_a_place_and_goes_first() -> None:
    places = Places(1)
    order: list[str] = []
    free = asyncio.Event()

    async def fetching() -> None:
        async with places.take() as place:
            place.leave()
            await free.wait()
            await place.take_again()
            order.append("back")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fetching())
        await asyncio.sleep(0)
        async with places.take():
            free.set()
            await asyncio.sleep(0.01)
            order.append("inside")
        with pytest.raises(ServeError) as caught:  # it is promised to the one who waits
            async with places.take():
                pass
        assert caught.value.code is ErrorCode.QUEUE_FULL
    assert order == ["inside", "back"]
    async with places.take():
        pass


async def test_who_gives_up_on_the_way_back_takes_no_place_along() -> None:
    places = Places(1)

    async def coming_back() -> None:
        async with places.take() as place:
            place.leave()
            async with places.take():
                await place.take_again()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await coming_back()
    async with places.take():
        with pytest.raises(ServeError):
            async with places.take():
                pass


def test_a_room_forgets_who_left() -> None:
    room = WaitingRoom(2, number_each=1)
    for key in range(1000):
        with room.enter(key):
            assert len(room) == 1
    assert len(room) == 0 and not room._waiting
