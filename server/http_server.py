"""aiohttp's server with our manners: even what is hardly HTTP is answered in our words.

A body is never decompressed: `http_body` refuses encoded ones by their header.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import web

from lorax_serve.server.error_replies import INTERNAL, UNREADABLE, error_reply
from lorax_serve.server.listening import port_refused

log = structlog.get_logger(__name__)

KEEPALIVE_SECONDS: Final = 75.0  # aiohttp's default is an hour
LAST_WRITE_SECONDS: Final = 2.0  # for a reply whose request has just ended
BACKLOG: Final = 128  # connections that wait to be accepted


class Connection(web.RequestHandler):
    """One client's. Of bytes that are no HTTP request nothing is echoed, to client or log."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Raises ConnectionError when part of a reply is out already."""
        crashed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if crashed:
            log.error("connection_crashed", exc_info=exc)
        else:
            log.info("unreadable_request", reason=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("part of a reply is out already")
        reply = error_reply(request, INTERNAL if crashed else UNREADABLE)
        reply.force_close()
        return reply


@asynccontextmanager
async def serving(
    app: web.Application, sockets: Sequence[socket.socket], *, shared: bool = False
) -> AsyncIterator[Sequence[asyncio.Server]]:
    """`app` served on the bound sockets. Closing a listener lets its open connections go on; on
    leaving they get LAST_WRITE_SECONDS. `shared`: other processes accept from the sockets too.

    Raises StartError when a socket cannot listen.
    """
    runner = web.AppRunner(
        app,
        handler_cancellation=True,  # a client that leaves takes its request along
        shutdown_timeout=LAST_WRITE_SECONDS,
    )
    await runner.setup()
    listeners: list[asyncio.Server] = []
    try:
        for bound in sockets:
            listeners.append(await _listen(runner, bound, shared=shared))
        yield listeners
    finally:
        for listener in listeners:
            listener.close()
        await runner.cleanup()


async def _listen(runner: web.AppRunner, bound: socket.socket, *, shared: bool) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    server = runner.server
    assert server is not None

    def connection() -> Connection:
        return Connection(
            server,
            loop=loop,
            keepalive_timeout=KEEPALIVE_SECONDS,
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
        )

    host, port = bound.getsockname()[:2]
    try:
        # asyncio accepts as many connections at once as its backlog is long. Of those that come
        # together each process is to have some, so it takes one at a time.
        listener = await loop.create_server(
            connection, sock=bound, backlog=1 if shared else BACKLOG
        )
        bound.listen(BACKLOG)
        return listener
    except OSError as error:  # another server was loading at the same time, and was faster
        raise port_refused(error, host, port) from error
