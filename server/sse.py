"""Server-sent events: the only place that knows what an event stream looks like on the wire.

Nothing is sent until the first frame is there, so that a request that fails early gets a proper
status; but a client is never left in silence for longer than the keep-alive interval. A stream that
cannot finish says so in an event and then breaks the connection: a clean end would make a truncated
answer look complete.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import structlog
from aiohttp import HttpVersion11, web

from lorax_serve.server.error_replies import INTERNAL, Failure, failure_of
from lorax_serve.server.errors import ServeError
from lorax_serve.server.keys import REQUEST_ID
from lorax_serve.server.service import Limits

log = structlog.get_logger(__name__)

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"[DONE]"
# Of a longer event the next bytes are written when these have been read: whole, the transport would
# copy all that waits, and the event loop wait for that.
WRITTEN_AT_ONCE = 2**18

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class _ClientLeft(Exception):
    """The connection is gone. Only a write says so: what `frames` raises means something else."""


class _SlowReader(Exception):
    """A write did not get through within the limit."""


async def send_events(
    request: web.Request,
    frames: AsyncGenerator[bytes, None],
    *,
    headers: Mapping[str, str],
    error_frame: Callable[[Failure], bytes],
    limits: Limits,
) -> web.StreamResponse:
    """Answer with each frame as one event, and close `frames` whatever happens.

    Raises what `frames` raises, as long as nothing was sent.
    """
    async with aclosing(frames):
        first = asyncio.ensure_future(anext(frames))
        try:
            await asyncio.wait({first}, timeout=limits.keep_alive_interval)
            if first.done():
                first.result()
            wire = _Wire(request, web.StreamResponse(headers={**headers, **HEADERS}), limits)
            await wire.response.prepare(request)
            keeping_alive = asyncio.create_task(wire.keep_alive())
            try:
                await _send_all(wire, first, frames, error_frame)
            finally:
                await _end(keeping_alive)
            return wire.response
        finally:
            await _end(first)


class _Wire:
    """One response being written. Every write waits for a slow reader, but not forever."""

    def __init__(self, request: web.Request, response: web.StreamResponse, limits: Limits) -> None:
        self.request = request
        self.response = response
        self._limits = limits
        self._last_write = asyncio.get_running_loop().time()
        self._is_amid_event = False

    async def event(self, frame: bytes) -> None:
        if len(frame) <= WRITTEN_AT_ONCE:
            await self._write(b"data: " + frame + b"\n\n")
            return
        self._is_amid_event = True
        await self._write(b"data: ")
        for start in range(0, len(frame), WRITTEN_AT_ONCE):
            await self._write(frame[start : start + WRITTEN_AT_ONCE])
        await self._write(b"\n\n")
        self._is_amid_event = False

    async def keep_alive(self) -> None:
        """Write a comment whenever nothing else was written for a while, until cancelled.

        A reader that takes none of them loses its connection, which cancels its request.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                idle = loop.time() - self._last_write
                if idle < self._limits.keep_alive_interval:
                    await asyncio.sleep(self._limits.keep_alive_interval - idle)
                elif self._is_amid_event:  # whose writes have limits of their own
                    await asyncio.sleep(self._limits.keep_alive_interval)
                else:
                    await self._write(KEEP_ALIVE)
        except (_ClientLeft, _SlowReader):
            self.drop()

    def tear(self) -> None:
        """Close the connection behind what was written, without the end that HTTP asks for."""
        if self.request.transport is not None:
            self._break(self.request.transport)
            self.request.transport.close()

    def drop(self) -> None:
        """Close the connection at once: what a client does not read is of no use to it."""
        if self.request.transport is not None:
            self._break(self.request.transport)
            self.request.transport.abort()

    def _break(self, transport: asyncio.Transport) -> None:
        """Without chunks the end of a connection is the end of a stream: make it a reset."""
        if self.request.version < HttpVersion11:
            plain: socket.socket = transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _write(self, chunk: bytes) -> None:
        self._last_write = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._limits.write_timeout):
                await self.response.write(chunk)
        except TimeoutError as error:
            raise _SlowReader from error
        except ConnectionError as error:
            raise _ClientLeft from error


async def _send_all(
    wire: _Wire,
    first: asyncio.Future[bytes],
    frames: AsyncGenerator[bytes, None],
    error_frame: Callable[[Failure], bytes],
) -> None:
    """The frames; or those that came, an error event and a torn connection."""
    request_id = wire.request[REQUEST_ID]
    try:
        await wire.event(await first)
        async for frame in frames:
            await wire.event(frame)
        return
    except _ClientLeft:
        log.debug("client_left", request_id=request_id)
        return
    except _SlowReader:
        log.info("slow_reader_dropped", request_id=request_id)
        wire.drop()
        return
    except ServeError as error:
        failure = failure_of(error)
    except Exception:
        log.exception("stream_failed", request_id=request_id)
        failure = INTERNAL
    try:
        await wire.event(error_frame(failure))
    except (_ClientLeft, _SlowReader):
        wire.drop()
    else:
        wire.tear()


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task that is still running and wait until it is gone."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # marks it as seen: whoever awaits the task's result reports it
