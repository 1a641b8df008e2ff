"""Adapters of the hub over HTTP: which credential goes where, what clients and logs are told."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs
from structlog.typing import EventDict

from fake_engine import FakeEngine, Tokens
from hub_stand_in import CONFIG, WEIGHTS, Fault, HubStandIn, adapter_repository, serving_hub
from lorax_serve.ipc.types import AdapterRef, ErrorCode, FinishReason, MergedAdapters
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.app import build_app
from lorax_serve.server.errors import ServeError
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.secret import Secret
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota
from lorax_serve.server.tenants import ANONYMOUS
from wire import make_service

TOKEN = "hf_of_the_caller"
SERVER_KEY = "sk-key-of-this-server"
BODIES = {
    "/generate": lambda name, **more: {
        "inputs": "x",
        "parameters": {"adapter_id": name, "adapter_source": "hub", **more},
    },
    "/v1/completions": lambda name, **more: {
        "model": name,
        "prompt": "x",
        "adapter_source": "hub",
        **more,
    },
    "/embed": lambda name, **more: {
        "inputs": "x",
        "parameters": {"adapter_id": name, "adapter_source": "hub", **more},
    },
    "/v1/embeddings": lambda name, **more: {
        "model": name,
        "input": "x",
        "adapter_source": "hub",
        **more,
    },
}


@dataclass
class Served:
    hub: HubStandIn
    engine: FakeEngine
    client: TestClient[web.Request, web.Application]
    store: AdapterStore
    logs: list[EventDict]

    async def post(
        self, path: str, name: str, *, key: str | None = None, **more: object
    ) -> aiohttp.ClientResponse:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return await self.client.post(path, json=BODIES[path](name, **more), headers=headers)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(wire_files: Path, tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def serving(
        *, operator_token: str | None = None, **changes: object
    ) -> AsyncIterator[Served]:
        hub = HubStandIn()
        hub.repositories["org/open"] = adapter_repository()
        hub.repositories["org/closed"] = adapter_repository(WEIGHTS[::-1], tokens={TOKEN})
        store = AdapterStore(tmp_path / "store", Quota(max_bytes=2**30, free_share=0, free_bytes=0))
        engine = FakeEngine(script=[Tokens([5], FinishReason.LENGTH)])
        async with serving_hub(hub):
            source = HubSource(
                hub.url,
                allowed=["org/*"],
                operator_token=operator_token,
                retries=Retries(first_bound=0.001),
            )
            remote = RemoteAdapters({"hub": source}, store, FetchLimits())
            service = replace(make_service(wire_files, engine, remote=remote), **changes)  # type: ignore[arg-type]
            with capture_logs() as logs:
                async with TestClient(TestServer(build_app(service))) as client:
                    yield Served(hub, engine, client, store, logs)
            service.tokenizer.close()

    return serving


@pytest.mark.parametrize("path", BODIES)
async def test_the_engine_gets_a_folder_and_its_digest(serve: Serve, path: str) -> None:
    async with serve() as served:
        reply = await served.post(path, "org/open@main")
        assert reply.status == 200, await reply.text()
        assert reply.headers["x-adapter-id"] == "org/open@main"
        assert reply.headers["x-adapter-source"] == "hub"
        (asked,) = (*served.engine.requests, *served.engine.pooled)
        adapter = asked.adapter
        assert adapter is not None
        assert adapter.name == "org/open@main"
        assert (Path(adapter.path) / "adapter_model.safetensors").read_bytes() == WEIGHTS
        assert adapter.path.replace("/", "").endswith(adapter.revision)


@pytest.mark.parametrize("path", BODIES)
async def test_the_bodys_token_is_the_adapters(serve: Serve, path: str) -> None:
    async with serve() as served:
        assert (await served.post(path, "org/closed", api_token=TOKEN)).status == 200
        closed = await served.post(path, "org/closed")
        absent = await served.post(path, "org/absent")
        assert closed.status == absent.status == (404 if path.startswith("/v1/") else 424)
        assert (await closed.text()).replace("closed", "absent") == await absent.text()
        assert TOKEN not in str(served.logs) + await closed.text() + repr(served.engine.requests)


async def test_who_proves_something_is_a_tenant_and_nobody_else(serve: Serve) -> None:
    """A made-up token for each request gets no share each; prompts of all of them stay apart."""
    async with serve() as served:
        for name, token in [
            ("org/closed", TOKEN),
            ("org/open", TOKEN),
            ("org/open", "made-up-1"),
            ("org/open", "made-up-2"),
            ("org/open", None),
            ("org/closed", TOKEN),
        ]:
            reply = await served.post("/generate", name, api_token=token)
            assert reply.status == 200, await reply.text()
        merge = {"ids": ["org/open", "org/closed"], "weights": [1, 1]}
        parameters = {"adapter_source": "hub", "merged_adapters": merge, "api_token": TOKEN}
        body = {"inputs": "x", "parameters": parameters}
        assert (await served.client.post("/generate", json=body)).status == 200
        requests = served.engine.requests
        proven = requests[0].tenant
        assert proven != ANONYMOUS
        assert [r.tenant == proven for r in requests] == [True, *[False] * 4, True, True]
        assert {r.tenant for r in requests[1:5]} == {ANONYMOUS}
        salts = [r.cache_salt for r in requests]
        assert {salts[n] for n in (0, 1, 5, 6)} == {salts[0]}
        assert len(set(salts)) == 4, "of TOKEN, of two made-up ones, of nobody"
        reply = await served.post("/v1/embeddings", "org/closed", api_token=TOKEN)
        assert reply.status == 200, await reply.text()
        (pooled,) = served.engine.pooled
        assert (pooled.tenant, pooled.cache_salt) == (proven, salts[0])


async def test_the_operators_token_makes_nobody_a_tenant(serve: Serve) -> None:
    async with serve(operator_token=TOKEN) as served:
        for token in (None, TOKEN):
            reply = await served.post("/generate", "org/closed", api_token=token)
            assert reply.status == 200, await reply.text()
        first, second = served.engine.requests
        assert (first.tenant, first.cache_salt) == (ANONYMOUS, "")
        assert second.tenant != ANONYMOUS


@pytest.mark.parametrize("path", BODIES)
async def test_server_key_not_forwarded(serve: Serve, path: str) -> None:
    async with serve() as served:
        assert (await served.post(path, "org/open", key=SERVER_KEY)).status == 200
        await served.post(path, "org/closed", key=TOKEN)
        await served.post(path, "org/closed", key=SERVER_KEY, api_token=TOKEN)
        assert {s.authorization for s in served.hub.seen} == {None, f"Bearer {TOKEN}"}
        assert SERVER_KEY not in str(served.logs)


async def test_the_header_is_the_adapters_where_the_operator_says_so(serve: Serve) -> None:
    async with serve(bearer_is_adapter_token=True) as served:
        assert (await served.post("/generate", "org/closed", key=TOKEN)).status == 200
        served.hub.seen.clear()
        refused = await served.post("/generate", "org/closed", key=TOKEN, api_token="hf_wrong")
        assert refused.status == 424
        assert {s.authorization for s in served.hub.seen} == {"Bearer hf_wrong"}


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_the_operators_key_is_nobodys_adapter_token(serve: Serve, path: str) -> None:
    admin_key = AdminKey(Secret(SERVER_KEY))
    async with serve(bearer_is_adapter_token=True, admin_key=admin_key) as served:
        assert (await served.post(path, "org/open", key=SERVER_KEY)).status == 200
        await served.post(path, "org/closed", key=SERVER_KEY)
        await served.post(path, "org/closed", key=TOKEN)
        assert {s.authorization for s in served.hub.seen} == {None, f"Bearer {TOKEN}"}


@pytest.mark.parametrize("token", ["a b", "a\nHost: x", "ü", "x" * 5000, "\x00"])
@pytest.mark.parametrize("path", BODIES)
async def test_what_no_token_is(serve: Serve, path: str, token: str) -> None:
    async with serve() as served:
        reply = await served.post(path, "org/open", api_token=token)
        assert reply.status in (400, 422)
        assert "api_token" in (text := await reply.text())
        assert token not in text
        assert served.hub.seen == []


@pytest.mark.parametrize("path", BODIES)
async def test_a_request_gives_back_what_it_held(serve: Serve, path: str) -> None:
    async with serve() as served:
        for stream in (False, True):
            await (await served.post(path, "org/open", stream=stream)).read()
        (entry,) = served.store._entries.values()
        assert entry.num_leases == 0


@pytest.mark.parametrize("path", BODIES)
async def test_a_running_request_holds_its_files(serve: Serve, path: str) -> None:
    async with serve() as served:
        served.engine.script = [asyncio.Event()]  # it is busy, and never done
        asked = asyncio.create_task(served.post(path, "org/open"))
        async with asyncio.timeout(10):
            while not (served.engine.requests or served.engine.pooled):
                await asyncio.sleep(0.01)
            (entry,) = served.store._entries.values()
            assert entry.num_leases == 1
            asked.cancel()
            await served.engine.changed.wait()
            while entry.num_leases:
                await asyncio.sleep(0.01)


DAMAGED = (ErrorCode.ADAPTER_CORRUPT, ErrorCode.ADAPTER_CHANGED, ErrorCode.MODEL_NOT_FOUND)


@pytest.mark.parametrize("code", DAMAGED)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_fault_15_what_the_engine_finds_damaged_is_fetched_again_once(
    serve: Serve, path: str, stream: bool, code: ErrorCode
) -> None:
    async with serve() as served:
        served.engine.script = [ServeError(code, "The file is damaged.")]
        for num_fetched in (1, 2, 2):
            await (await served.post(path, "org/open", stream=stream)).read()
            assert served.hub.num_weight_requests == num_fetched
        assert served.store.num_entries == 1


async def test_other_failures_of_the_engine_fetch_nothing_again(serve: Serve) -> None:
    async with serve() as served:
        for code in set(ErrorCode).difference(DAMAGED):
            served.engine.script = [ServeError(code, "No such luck.")]
            await (await served.post("/generate", "org/open")).read()
        assert served.hub.num_weight_requests == 1


async def test_fault_15_of_a_merges_parts_only_the_damaged_is_fetched_again(serve: Serve) -> None:
    async with serve() as served:
        served.hub.repositories["org/other"] = adapter_repository(WEIGHTS[::-1])
        merge = {"ids": ["org/open", "org/other"], "weights": [1, 1]}
        parameters = {"adapter_source": "hub", "merged_adapters": merge}
        body = {"inputs": "x", "parameters": parameters}
        served.engine.script = [ServeError(ErrorCode.ADAPTER_CORRUPT, "One is damaged.")]
        await (await served.client.post("/generate", json=body)).read()
        assert served.hub.num_weight_requests == 2
        parts = served.engine.requests[0].adapter
        assert isinstance(parts, MergedAdapters)
        weights = Path(parts.parts[1].path) / "adapter_model.safetensors"
        before = weights.stat()
        weights.write_bytes(WEIGHTS)
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # its state gives no hint
        await (await served.client.post("/generate", json=body)).read()
        assert served.hub.num_weight_requests == 3


async def test_fault_15_an_operators_command_finds_the_damage_too(serve: Serve) -> None:
    async with serve() as served:
        served.engine.refusal = ServeError(ErrorCode.ADAPTER_CORRUPT, "The file is damaged.")
        operations = served.client.app[SERVICE].desk.operations
        for num_fetched in (1, 2, 2):
            with pytest.raises(ServeError, match="damaged"):
                await operations.preload("org/open", "hub", pin=True)
            assert served.hub.num_weight_requests == num_fetched


async def test_operators_see_downloads_and_how_they_ended(serve: Serve) -> None:
    key = "admin-key-of-the-operator"
    async with serve(admin_key=AdminKey(Secret(key))) as served:

        async def under_way() -> list[dict[str, object]]:
            headers = {"Authorization": f"Bearer {key}"}
            body = await (await served.client.get("/adapters", headers=headers)).json()
            return list(body["fetches"])

        assert await under_way() == []
        served.hub.held.add("org/closed")
        asked = asyncio.create_task(served.post("/generate", "org/closed", api_token=TOKEN))
        async with asyncio.timeout(10):
            while not (seen := await under_way()) or seen[0]["bytes"] <= len(CONFIG):
                await asyncio.sleep(0.01)
        (fetch,) = seen
        assert (fetch["name"], fetch["source"]) == ("org/closed", "hub")
        assert fetch["total_bytes"] == len(CONFIG) + len(WEIGHTS)
        assert len(CONFIG) < fetch["bytes"] < fetch["total_bytes"]
        assert 0 <= fetch["seconds"] < 10
        served.hub.released.set()
        assert (await asked).status == 200
        assert await under_way() == []
        (line,) = [line for line in served.logs if line["event"] == "adapter_fetched"]
        adapter = served.engine.requests[0].adapter
        assert isinstance(adapter, AdapterRef)
        assert (line["revision"], line["source"]) == (adapter.revision[:12], "hub")
        assert line["bytes"] == len(CONFIG) + len(WEIGHTS) and line["seconds"] >= 0
        assert "closed" not in str(line)
        metrics = await (await served.client.get("/metrics")).text()
        assert 'lorax_adapter_fetches_total{source="hub"} 1.0' in metrics
        total = f"{float(len(CONFIG) + len(WEIGHTS))}"
        assert f'lorax_adapter_fetched_bytes_total{{source="hub"}} {total}' in metrics
        assert 'lorax_adapter_fetch_seconds_total{source="hub"}' in metrics
        assert "closed" not in metrics


async def test_who_leaves_while_it_is_fetched_stops_the_download(serve: Serve) -> None:
    async with serve() as served:
        served.hub.held.add("org/open")
        asked = asyncio.create_task(served.post("/generate", "org/open"))
        async with asyncio.timeout(10):
            while not served.hub.num_weight_requests:
                await asyncio.sleep(0.01)
            promised = served.store.charged_bytes
            asked.cancel()
            while served.store.charged_bytes >= promised:  # what it was promised is not needed
                await asyncio.sleep(0.01)
        assert served.engine.requests == []


@pytest.mark.parametrize("path", BODIES)
async def test_who_waits_for_an_adapter_hears_of_the_servers_end(serve: Serve, path: str) -> None:
    async with serve() as served:
        served.hub.held.add("org/open")
        asked = asyncio.create_task(served.post(path, "org/open"))
        async with asyncio.timeout(10):
            while not served.hub.num_weight_requests:
                await asyncio.sleep(0.01)
            await served.client.app.shutdown()
            for reply in (await asked, await served.post(path, "org/other")):
                assert reply.status == 503
                assert "shutting down" in await reply.text()


async def test_fault_20_the_source_is_down(serve: Serve) -> None:
    async with serve() as served:
        served.hub.faults = [Fault(429, on_info=True, retry_after="77") for _ in BODIES]
        for path in BODIES:
            reply = await served.post(path, "org/open")
            assert reply.status == 503
            assert reply.headers["Retry-After"] == "77"
            assert "127.0.0.1" not in await reply.text()


@pytest.mark.parametrize(
    "name", ["org/x\nERROR forged", "org/\x1b[31mred", "org/%s%n", "http://h/x"]
)
async def test_log_injection_ends_at_the_door(serve: Serve, name: str) -> None:
    async with serve() as served:
        reply = await served.post("/v1/completions", name)
        assert reply.status == 400
        assert served.hub.seen == []
        assert name not in str(served.logs)


async def test_without_a_word_the_servers_own_source_counts(serve: Serve) -> None:
    async with serve() as served:
        local = {"inputs": "x", "parameters": {"adapter_id": "alice"}}
        assert (await served.client.post("/generate", json=local)).status == 200
        assert served.hub.seen == []
        elsewhere = {"adapter_id": "org/open", "adapter_source": "ftp"}
        reply = await served.client.post("/generate", json={"inputs": "x", "parameters": elsewhere})
        assert reply.status == 424
        assert "`local` and `hub`" in await reply.text()
