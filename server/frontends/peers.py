"""What frontends of one server ask of each other, each on a unix socket in the server's folder.

Each counts its own requests. Whichever is asked for the metrics, the first one tells them: it
adds up everybody's counts, and alone asks for the engine's figures, which are one server's.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.adapter_desk import AdapterDesk
from lorax_serve.server.errors import ServeError
from lorax_serve.server.frontends.sums import summed

_ANSWER_SECONDS: Final = 5.0
_FIRST: Final = 0
_METRICS: Final = "/metrics"
_COUNTS: Final = "/counts"


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One frontend's."""

    labels: list[tuple[str, str]]  # revisions, and what metrics call the adapters that have them
    metrics: str  # in Prometheus's text format


class Peers:
    """The frontends of a server, as seen by one of them."""

    def __init__(self, folder: Path, index: int, number: int) -> None:
        """`folder` is the server's private one; this frontend is `index` of `number`, from 0."""
        self._folder = folder
        self._index = index
        self._number = number

    async def metrics(self, desk: AdapterDesk, registry: CollectorRegistry) -> bytes:
        """Of the whole server, in Prometheus's text format; `desk` and `registry` are one's own.

        Raises ServeError (NOT_READY) when a frontend does not answer: without its part, counters
        would fall.
        """
        if self._index != _FIRST:
            return await self._ask(_FIRST, _METRICS)
        others = await asyncio.gather(
            *(self._ask(index, _COUNTS) for index in range(_FIRST + 1, self._number))
        )
        counts = [msgspec.json.decode(each, type=Counts) for each in others]
        await desk.statuses.update_metrics([pair for each in counts for pair in each.labels])
        return summed(registry, [each.metrics for each in counts])

    @asynccontextmanager
    async def answering(
        self, desk: AdapterDesk, registry: CollectorRegistry
    ) -> AsyncIterator[None]:
        """For as long as the block lasts, the others can ask this one."""

        async def metrics(request: web.Request) -> web.Response:
            try:
                return web.Response(body=await self.metrics(desk, registry))
            except ServeError:
                raise web.HTTPServiceUnavailable from None

        async def counts(request: web.Request) -> web.Response:
            labels = [(record.revision, record.label) for record in desk.records]
            told = Counts(labels, generate_latest(registry).decode())
            return web.Response(body=msgspec.json.encode(told))

        app = web.Application()
        app.add_routes([web.get(_METRICS, metrics), web.get(_COUNTS, counts)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        try:
            await web.UnixSite(runner, str(self._socket(self._index))).start()
            yield
        finally:
            await runner.cleanup()

    async def _ask(self, index: int, path: str) -> bytes:
        """Raises ServeError."""
        connector = aiohttp.UnixConnector(str(self._socket(index)))
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"http://frontend{path}", raise_for_status=True) as reply,
            ):
                return await reply.read()
        except (aiohttp.ClientError, TimeoutError):
            raise ServeError(
                ErrorCode.NOT_READY, "A frontend process of this server does not answer."
            ) from None

    def _socket(self, index: int) -> Path:
        """Its path is no longer than that of the engine's socket."""
        return self._folder / f"peer{index:02}.sock"
