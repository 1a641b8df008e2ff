"""models_list_scoped: who is shown which model, over a hub on real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from fake_engine import FakeEngine, Tokens
from hub_stand_in import WEIGHTS, Fault, HubStandIn, adapter_repository, serving_hub
from lorax_serve.ipc.messages import AdapterAction
from lorax_serve.ipc.types import FinishReason
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.app import build_app
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.secret import Secret
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota
from lorax_serve.server.verdicts import TRUE_SECONDS, Verdicts
from set_clock import Clock
from wire import ADAPTERS, MODEL_ID, make_service

ALICE, BOB, KEY = "hf_of_alice", "hf_of_bob", "admin-key"
OTHER = WEIGHTS[::-1]


@dataclass
class Site:
    hub: HubStandIn
    client: TestClient[Any, Any]
    engine: FakeEngine
    clock: Clock

    async def use(self, name: str, token: str | None = None, source: str | None = "hub") -> int:
        body: dict[str, object] = {"model": name, "prompt": "x", "api_token": token}
        if source is not None:
            body["adapter_source"] = source
        return (await self.client.post("/v1/completions", json=body)).status

    async def models(self, token: str | None = None) -> dict[str, str]:
        reply = await self.client.get("/v1/models", headers=_headers(token))
        assert reply.status == 200
        found = {model["id"]: model["root"] for model in (await reply.json())["data"]}
        assert len(found) == len((await reply.json())["data"]), "an id is there twice"
        return {name: root for name, root in found.items() if name not in (MODEL_ID, *ADAPTERS)}

    async def model(self, name: str, token: str | None = None) -> int:
        return (await self.client.get(f"/v1/models/{name}", headers=_headers(token))).status

    async def admin(
        self, path: str, *, header: str | None = None, **body: object
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {KEY}", **_headers(header)}
        reply = await self.client.post(path, json=body, headers=headers)
        return reply.status, await reply.json() if "json" in reply.content_type else None


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"X-Adapter-Token": token}


@pytest_asyncio.fixture
async def site(wire_files: Path, tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(wire_files, tmp_path / "store") as made:
        yield made


@asynccontextmanager
async def serving(files: Path, folder: Path) -> AsyncIterator[Site]:
    hub, clock = HubStandIn(), Clock()
    hub.repositories["org/open"] = adapter_repository()
    hub.repositories["org/closed"] = adapter_repository(OTHER, tokens={ALICE})
    store = AdapterStore(folder, Quota(max_bytes=2**30, free_share=0, free_bytes=0))
    engine = FakeEngine(script=[Tokens([5], FinishReason.LENGTH)])
    async with serving_hub(hub):
        source = HubSource(hub.url, retries=Retries(first_bound=0.001))
        remote = RemoteAdapters({"hub": source}, store, FetchLimits(), Verdicts(clock))
        service = make_service(files, engine, remote=remote, admin_key=AdminKey(Secret(KEY)))
        async with TestClient(TestServer(build_app(service))) as client:
            yield Site(hub, client, engine, clock)
        service.tokenizer.close()


async def test_public_ones_are_everybodys_once_they_are_here(site: Site) -> None:
    assert await site.models() == {}
    assert await site.model("org/open") == 404
    assert await site.use("org/open") == 200
    for token in (None, ALICE, BOB):
        [(name, root)] = (await site.models(token)).items()
        assert name == "org/open"
        assert root.startswith("hub:org/open@")
        assert await site.model("org/open", token) == 200
    assert "hf_of" not in str(site.hub.seen), "listing asks nobody"


async def test_private_ones_are_shown_to_who_proved_them_lately(site: Site) -> None:
    assert await site.use("org/closed", ALICE) == 200
    assert set(await site.models(ALICE)) == {"org/closed"}
    assert await site.model("org/closed", ALICE) == 200
    for token in (None, BOB, ALICE + "x"):
        assert await site.models(token) == {}
        assert await site.model("org/closed", token) == 404
    site.clock.now += TRUE_SECONDS + 1
    assert await site.models(ALICE) == {}
    assert await site.model("org/closed", ALICE) == 404


async def test_a_refused_caller_is_shown_nothing_and_changes_nothing(site: Site) -> None:
    await site.use("org/closed", ALICE)
    assert await site.use("org/closed", BOB) == 404
    assert await site.use("org/closed") == 404
    assert await site.models(BOB) == await site.models() == {}
    assert set(await site.models(ALICE)) == {"org/closed"}


async def test_what_went_private_is_hidden(site: Site) -> None:
    await site.use("org/open")
    site.hub.repositories["org/open"].tokens = {ALICE}
    site.clock.now += TRUE_SECONDS + 1
    assert await site.use("org/open") == 404
    assert await site.models() == {}


async def test_public_ones_are_listed_after_a_restart(wire_files: Path, tmp_path: Path) -> None:
    for use in (True, False):
        async with serving(wire_files, tmp_path / "store") as site:
            if use:
                assert await site.use("org/open") == 200
                assert await site.use("org/closed", ALICE) == 200
            else:
                assert set(await site.models(ALICE)) == {"org/open"}


async def test_an_alias_gives_a_name_and_no_permission(site: Site) -> None:
    body = {"lora_name": "mine", "lora_path": "hf://org/closed"}
    assert (await site.admin("/v1/load_lora_adapter", **body))[0] == 404, (
        "the admin key is no token"
    )
    status, _ = await site.admin("/v1/load_lora_adapter", **body, api_token=ALICE, pin=True)
    assert status == 200
    assert site.engine.commands[-1][0] is AdapterAction.PIN
    assert await site.use("mine", ALICE, source=None) == 200
    assert set(await site.models(ALICE)) == {"mine", "org/closed"}
    for token in (None, BOB):
        assert await site.use("mine", token, source=None) == 404
        assert await site.models(token) == {}
        assert await site.model("mine", token) == 404
    reply = await site.client.post("/v1/completions", json={"model": "mine", "prompt": "x"})
    assert "closed" not in await reply.text(), "whose name it is, is not told"


COMMANDS: list[tuple[str, dict[str, object]]] = [
    ("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": "org/closed"}),
    ("/adapters/org/closed/pin", {}),
    ("/adapters/org/closed/refresh", {}),
]


@pytest.mark.parametrize(("path", "body"), COMMANDS)
async def test_the_header_is_an_operators_token_too(
    site: Site, path: str, body: dict[str, object]
) -> None:
    """As on the routes that generate: the body's goes before it, and an empty one is none."""
    body = {**body, "source": "hub"}
    assert (await site.admin(path, **body, header=BOB))[0] == 404
    assert (await site.admin(path, **body, header=ALICE, api_token=BOB))[0] == 404
    for more in ({}, {"api_token": ""}, {"api_token": None}):
        status, _ = await site.admin(path, **body, **more, header=ALICE, **again(path))
        assert status == 200
    assert (await site.admin(path, **body, header=BOB, api_token=ALICE, **again(path)))[0] == 200
    sent = {seen.authorization for seen in site.hub.seen if not seen.on_network}
    assert sent == {f"Bearer {ALICE}", f"Bearer {BOB}"}


@pytest.mark.parametrize(("path", "body"), COMMANDS)
async def test_an_operators_empty_token_is_sent_nowhere(
    site: Site, path: str, body: dict[str, object]
) -> None:
    assert (await site.admin(path, **body, source="hub", api_token=""))[0] == 404
    assert {seen.authorization for seen in site.hub.seen} == {None}


def again(path: str) -> dict[str, object]:
    """What a body needs for a name that may be loaded."""
    return {"load_inplace": True} if "load" in path else {}


async def test_an_alias_of_a_public_one_is_everybodys(site: Site) -> None:
    body = {"lora_name": "ours", "lora_path": "org/open", "source": "hub"}
    assert (await site.admin("/v1/load_lora_adapter", **body))[0] == 200
    assert await site.use("ours", source=None) == 200
    assert set(await site.models()) == {"ours", "org/open"}


async def test_refresh_asks_the_hub_now(site: Site) -> None:
    assert await site.use("org/open") == 200
    first = site.engine.requests[-1].adapter
    site.hub.repositories["org/open"].commits += adapter_repository(OTHER).commits
    assert await site.use("org/open") == 200
    assert site.engine.requests[-1].adapter == first, "within its minute a name stays"
    status, now = await site.admin("/adapters/org/open/refresh", source="hub")
    assert (status, now["changed"]) == (200, True)
    assert await site.use("org/open") == 200
    assert site.engine.requests[-1].adapter != first
    status, now = await site.admin("/adapters/org/open/refresh", source="hub")
    assert (status, now["changed"]) == (200, False)


async def test_refresh_of_an_unreachable_hub_fails_and_changes_nothing(site: Site) -> None:
    assert await site.use("org/open") == 200
    site.hub.faults = [Fault(500, on_info=True) for _ in range(30)]
    assert (await site.admin("/adapters/org/open/refresh", source="hub"))[0] == 503
    assert await site.use("org/open") == 200
