"""A hub on the loopback interface that speaks the hub's HTTP API, and can be made to fail.

Large files are redirected to a second host, as the hub's are to its content delivery network.
`huggingface_hub` itself is content with it; see server/sources/hub/test_adapters.py.
"""

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web
from aiohttp.test_utils import TestServer

Kind = Literal["stall", "stall_half", "reset_half", "too_long", "too_short", "wrong_bytes"]
CONFIG = b'{"peft_type": "LORA", "r": 4}'
WEIGHTS = bytes(range(256)) * 512  # 128 KiB


@dataclass
class Fault:
    """What the next request for a file (or, `on_info`, for what a repository is) runs into."""

    kind: Kind | int  # an int is a status
    on_info: bool = False
    retry_after: str | None = None
    file: str = "adapter_model.safetensors"


@dataclass
class Repository:
    """`commits` are its versions, the last one is main; with `tokens` it is private."""

    commits: list[dict[str, bytes]]
    tokens: set[str] | None = None
    gated: bool = False
    announced_bytes: int | None = None  # of the weights, where that is a lie

    def sha(self, index: int) -> str:
        content = repr(sorted(self.commits[index].items())).encode()
        return hashlib.sha1(content + str(index).encode()).hexdigest()

    @property
    def main(self) -> str:
        return self.sha(len(self.commits) - 1)

    def files(self, revision: str) -> dict[str, bytes] | None:
        if revision == "main":
            return self.commits[-1]
        shas = [self.sha(index) for index in range(len(self.commits))]
        return self.commits[shas.index(revision)] if revision in shas else None


def adapter_repository(weights: bytes = WEIGHTS, tokens: set[str] | None = None) -> Repository:
    return Repository(
        [{"adapter_config.json": CONFIG, "adapter_model.safetensors": weights}], tokens
    )


@dataclass(frozen=True)
class Seen:
    """A request the hub or its network got."""

    path: str
    authorization: str | None
    range: str | None
    on_network: bool


@dataclass
class HubStandIn:
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    revoked: set[str] = field(default_factory=set)
    released: asyncio.Event = field(default_factory=asyncio.Event)  # ends every stall
    held: set[str] = field(default_factory=set)  # files of these repositories stall half-way
    dripping: set[str] = field(default_factory=set)  # and of these come byte by byte, 20 a second
    url: str = ""
    network_url: str = ""
    loop: asyncio.AbstractEventLoop | None = None  # it runs on

    def paths(self, part: str) -> list[Seen]:
        return [seen for seen in self.seen if part in seen.path]

    @property
    def num_weight_requests(self) -> int:
        """Requests for weights that reached the place where the bytes are."""
        return len([s for s in self.paths("adapter_model.safetensors") if s.on_network])

    def release(self) -> None:
        """Ends every stall, from any thread."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.released.set)

    def hub_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/models/{owner}/{name}/auth-check", self._auth_check)
        app.router.add_get("/api/models/{owner}/{name}", self._info)
        app.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._info)
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{file:.+}", self._resolve)
        return app

    def network_app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{owner}/{name}/{revision}/{file:.+}", self._content)
        return app

    def _note(self, request: web.Request, *, on_network: bool = False) -> None:
        headers = request.headers
        seen = (request.path, headers.get("Authorization"), headers.get("Range"), on_network)
        self.seen.append(Seen(*seen))

    def _repository(self, request: web.Request, *, for_files: bool) -> Repository:
        """Raises the answer to who may not know, or not have."""
        repository = self.repositories.get(self._name(request))
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if token in self.revoked:
            raise web.HTTPUnauthorized(headers={"X-Error-Message": "Invalid credentials"})
        tokens = None if repository is None else repository.tokens
        may = tokens is None or (scheme == "Bearer" and token in tokens)
        if repository is None or (not may and not repository.gated):
            raise web.HTTPUnauthorized(headers={"X-Error-Code": "RepoNotFound"})
        if not may and for_files:
            raise web.HTTPForbidden(headers={"X-Error-Code": "GatedRepo"})
        return repository

    def _name(self, request: web.Request) -> str:
        return f"{request.match_info['owner']}/{request.match_info['name']}"

    async def _auth_check(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        self._repository(request, for_files=True)
        return web.json_response({})

    async def _info(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        await self._fail(request, self._next_fault(on_info=True))
        repository = self._repository(request, for_files=False)
        revision = request.match_info.get("revision", "main")
        files = repository.files(revision)
        if files is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})
        return web.json_response(
            {
                "id": self._name(request),
                "sha": repository.main if revision == "main" else revision,
                "private": repository.tokens is not None and not repository.gated,
                "gated": "manual" if repository.gated else False,
                "siblings": [_sibling(repository, *file) for file in files.items()],
                "tags": [],
            }
        )

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        repository = self._repository(request, for_files=True)
        revision, file = request.match_info["revision"], request.match_info["file"]
        content = (repository.files(revision) or {}).get(file)
        if content is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": revision, "ETag": f'"{digest}"'}
        if not file.endswith(".safetensors"):
            return web.Response(body=content, headers=headers)
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{digest}"'}
        where = f"{self.network_url}/{self._name(request)}/{revision}/{file}"
        raise web.HTTPFound(where, headers=headers)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        self._note(request, on_network=True)
        fault = self._next_fault(on_info=False, file=request.match_info["file"])
        await self._fail(request, fault)
        files = self.repositories[self._name(request)].files(request.match_info["revision"])
        assert files is not None
        content = files[request.match_info["file"]]
        kind = fault.kind if fault else None
        if kind == "wrong_bytes":
            content = bytes(byte ^ 1 for byte in content)
        start = int(request.headers["Range"][6:-1]) if "Range" in request.headers else 0
        part = content[start:]
        part += b"more" if kind == "too_long" else b""
        part = part[:-4] if kind == "too_short" else part
        reply = web.StreamResponse(status=206 if start else 200)
        if start:
            reply.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        reply.content_length = len(part)
        await reply.prepare(request)
        while self._name(request) in self.dripping and not self.released.is_set():
            await reply.write(part[:1])
            part = part[1:]
            await asyncio.sleep(0.05)
        half = len(part) // 2
        await reply.write(part[:half])
        if kind == "stall_half" or self._name(request) in self.held:
            await self.released.wait()
        if kind == "reset_half":
            await asyncio.sleep(0.05)  # for the first half to arrive
            assert request.transport is not None
            request.transport.abort()
            return reply
        await reply.write(part[half:])
        return reply

    def _next_fault(self, *, on_info: bool, file: str | None = None) -> Fault | None:
        for fault in self.faults:
            if fault.on_info == on_info and (on_info or fault.file == file):
                self.faults.remove(fault)
                return fault
        return None

    async def _fail(self, request: web.Request, fault: Fault | None) -> None:
        if fault is not None and fault.kind == "stall":
            await self.released.wait()
        if fault is not None and isinstance(fault.kind, int):
            headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            raise _StatusError(fault.kind, headers)


class _StatusError(web.HTTPException):
    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        super().__init__(headers=headers, text=json.dumps({"error": "as the test wants it"}))


def _sibling(repository: Repository, name: str, content: bytes) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
    if name.endswith(".safetensors"):
        size = repository.announced_bytes or len(content)
        digest = hashlib.sha256(content).hexdigest()
        sibling |= {"size": size, "lfs": {"sha256": digest, "size": size, "pointerSize": 134}}
    return sibling


@asynccontextmanager
async def serving_hub(hub: HubStandIn) -> AsyncIterator[HubStandIn]:
    async with TestServer(hub.hub_app()) as server, TestServer(hub.network_app()) as network:
        hub.loop = asyncio.get_running_loop()
        hub.url = str(server.make_url("")).rstrip("/")
        hub.network_url = str(network.make_url("")).rstrip("/")
        try:
            yield hub
        finally:
            hub.released.set()


@contextmanager
def hub_in_thread(make: Callable[[], HubStandIn]) -> Iterator[HubStandIn]:
    """For tests with no event loop. `make` runs on the hub's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def enter() -> HubStandIn:
        return await serving.__aenter__()

    async def made() -> HubStandIn:
        return make()

    try:
        hub = asyncio.run_coroutine_threadsafe(made(), loop).result(10)
        serving = serving_hub(hub)
        yield asyncio.run_coroutine_threadsafe(enter(), loop).result(10)
        leaving = serving.__aexit__(None, None, None)
        asyncio.run_coroutine_threadsafe(_awaited(leaving), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _awaited(leaving: object) -> None:
    assert asyncio.iscoroutine(leaving)
    await leaving
