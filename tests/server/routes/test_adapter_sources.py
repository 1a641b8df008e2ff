"""Adapters of the hub over HTTP: what is held and fetched for a request, and what is told of it."""

import asyncio
from pathlib import Path

import pytest

from hub_stand_in import CONFIG, WEIGHTS, Fault
from lorax_serve.ipc.types import AdapterRef
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.secret import Secret
from served_hub import BODIES, TOKEN, Serve
from waiting import PATIENCE_SECONDS, until


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
        await until(lambda: served.engine.requests or served.engine.pooled)
        (entry,) = served.store._entries.values()
        assert entry.num_leases == 1
        asked.cancel()
        await until(lambda: not entry.num_leases)


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
        async with asyncio.timeout(PATIENCE_SECONDS):
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
        await until(lambda: served.hub.num_weight_requests)
        promised = served.store.charged_bytes
        asked.cancel()
        # What it was promised is not needed any more.
        await until(lambda: served.store.charged_bytes < promised)
        assert served.engine.requests == []


@pytest.mark.parametrize("path", BODIES)
async def test_who_waits_for_an_adapter_hears_of_the_servers_end(serve: Serve, path: str) -> None:
    async with serve() as served:
        served.hub.held.add("org/open")
        asked = asyncio.create_task(served.post(path, "org/open"))
        await until(lambda: served.hub.num_weight_requests)
        await served.client.app.shutdown()
        async with asyncio.timeout(PATIENCE_SECONDS):
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
