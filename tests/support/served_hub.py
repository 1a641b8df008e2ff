"""Our server over a fake engine and the hub's stand-in, asked in every way for an adapter."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs
from structlog.typing import EventDict

from fake_engine import FakeEngine, Tokens
from hub_stand_in import WEIGHTS, HubStandIn, adapter_repository, serving_hub
from lorax_serve.ipc.types import FinishReason
from lorax_serve.server.app import build_app
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.room import Quota
from wire import make_service

TOKEN = "hf_of_the_caller"


def _native(name: str, **more: object) -> dict[str, object]:
    parameters = {"adapter_id": name, "adapter_source": "hub", **more}
    return {"inputs": "x", "parameters": parameters}


def _openai(field: str) -> Callable[..., dict[str, object]]:
    def body(name: str, **more: object) -> dict[str, object]:
        return {"model": name, field: "x", "adapter_source": "hub", **more}

    return body


BODIES: dict[str, Callable[..., dict[str, object]]] = {
    "/generate": _native,
    "/v1/completions": _openai("prompt"),
    "/embed": _native,
    "/v1/embeddings": _openai("input"),
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


@asynccontextmanager
async def serving_adapters(
    files: Path, folder: Path, *, operator_token: str | None = None, **changes: object
) -> AsyncIterator[Served]:
    """With a store in `folder`, and `changes` to the Service."""
    hub = HubStandIn()
    hub.repositories["org/open"] = adapter_repository()
    hub.repositories["org/closed"] = adapter_repository(WEIGHTS[::-1], tokens={TOKEN})
    store = AdapterStore(folder, Quota(max_bytes=2**30, free_share=0, free_bytes=0))
    engine = FakeEngine(script=[Tokens([5], FinishReason.LENGTH)])
    async with serving_hub(hub):
        source = HubSource(
            hub.url,
            allowed=["org/*"],
            operator_token=operator_token,
            retries=Retries(first_bound=0.001),
        )
        remote = RemoteAdapters({"hub": source}, store, FetchLimits())
        service = replace(make_service(files, engine, remote=remote), **changes)  # type: ignore[arg-type]
        with capture_logs() as logs:
            async with TestClient(TestServer(build_app(service))) as client:
                yield Served(hub, engine, client, store, logs)
        service.tokenizer.close()
