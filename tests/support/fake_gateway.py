"""Predibase's gateway on the loopback interface, as far as names are resolved there."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FakeGateway:
    """`owners` says whose token may see which repository; `replies` come before anything else."""

    owners: dict[str, set[str]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)  # by repo/version
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)  # by repo or repo/version
    replies: list[Reply] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    url: str = ""

    async def version(self, request: web.Request) -> web.StreamResponse:
        repo, number = request.match_info["repo"], request.match_info["version"]
        return await self._answer(request, repo, self.versions.get(f"{repo}/{number}"))

    async def run(self, request: web.Request) -> web.StreamResponse:
        repo, number = request.match_info["repo"], request.query.get("version")
        name = repo if number is None else f"{repo}/{number}"
        return await self._answer(request, repo, self.runs.get(name))

    async def _answer(
        self, request: web.Request, repo: str, found: dict[str, Any] | None
    ) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        self.tokens.append(request.headers.get("Authorization"))
        if self.replies:
            return await self.replies.pop(0)(request)
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in {token for tokens in self.owners.values() for token in tokens}:
            raise web.HTTPUnauthorized(text="who are you, token-canary?")
        if token not in self.owners.get(repo, set()):
            raise web.HTTPForbidden
        if found is None:
            raise web.HTTPNotFound
        return web.json_response(found)


@asynccontextmanager
async def fake_gateway(gateway: FakeGateway) -> AsyncIterator[FakeGateway]:
    app = web.Application()
    app.router.add_get("/base/v2/repos/{repo}/version/{version}", gateway.version)
    app.router.add_get("/base/v1/models/version/name/{repo}", gateway.run)
    async with TestServer(app) as server:
        gateway.url = str(server.make_url("/base"))
        yield gateway


@contextmanager
def gateway_in_thread(gateway: FakeGateway) -> Iterator[FakeGateway]:
    """For tests with no event loop."""
    started, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with fake_gateway(gateway):
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield gateway
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def status(code: int, **headers: str) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, headers=named, text="token-canary")

    return reply


def text(body: str) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body)

    return reply


async def silence(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)  # until the client hangs up
    raise web.HTTPOk


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    raise web.HTTPOk


async def trickle(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse()
    await reply.prepare(request)
    while True:
        await reply.write(b" ")
        await asyncio.sleep(0.02)


async def endless(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse()
    await reply.prepare(request)
    while True:
        await reply.write(b" " * 2**16)


ALICE, BOB = "alice-token-canary", "bob-token-canary"
FOLDER = "uuid-1/run-1/artifacts/model/model_weights"
ADAPTER_ID = "sql/2"
