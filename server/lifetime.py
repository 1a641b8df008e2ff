"""The life of a server: engine up, HTTP up, wait, drain, everything down again."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.engine_client import EngineClient
from lorax_serve.server.errors import ServeError
from lorax_serve.server.handshake import ReportProgress
from lorax_serve.server.http_server import serving
from lorax_serve.server.stop_signals import StopRequested, StopSignals, stop_signals
from lorax_serve.server.supervisor import EngineLaunch, running_engine

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Plan:
    """All that a server's life needs, known before it begins."""

    launch: EngineLaunch
    sockets: Sequence[socket.socket]  # bound, not listening
    build_app: Callable[[EngineClient], web.Application]  # once the engine is ready
    prepare: Callable[[web.Application], Awaitable[None]]  # before HTTP answers
    report: ReportProgress
    on_ready: Callable[[EngineClient], None]  # once HTTP answers
    shutdown_seconds: float  # for open requests after the first signal


async def live(plan: Plan) -> str | None:
    """Serve until a signal comes or the engine is lost; in the latter case, what happened.

    Raises StartError when the server does not get as far as serving.
    """
    with stop_signals() as signals:
        try:
            async with running_engine(plan.launch, plan.report, signals) as engine:
                app = plan.build_app(engine.client)
                await _prepared(plan.prepare(app), signals)
                async with serving(app, plan.sockets) as listeners:
                    plan.on_ready(engine.client)
                    await serve(
                        listeners, engine.client, engine.lost, signals, plan.shutdown_seconds
                    )
                return engine.lost.result() if engine.lost.done() else None
        except StopRequested:
            return None


async def _prepared(preparation: Awaitable[None], signals: StopSignals) -> None:
    """Raises what it raises, and StopRequested when a signal came first."""
    preparing = asyncio.ensure_future(preparation)
    stop = asyncio.create_task(signals.requested.wait())
    try:
        await asyncio.wait((preparing, stop), return_when=asyncio.FIRST_COMPLETED)
        if not preparing.done():
            raise StopRequested
        preparing.result()
    finally:
        stop.cancel()
        preparing.cancel()
        await asyncio.wait((preparing,))


async def serve(
    listeners: Sequence[asyncio.Server],
    client: EngineClient,
    lost: asyncio.Task[str],
    signals: StopSignals,
    shutdown_seconds: float,
) -> None:
    """Until a signal comes or the engine is lost; then take nothing new, let the open requests end
    within `shutdown_seconds`, and fail the rest.

    A second signal, or the loss of the engine, ends that wait.
    """
    await first(signals.requested.wait(), over(lost))
    for listener in listeners:
        listener.close()
    error = ServeError(ErrorCode.SERVER_SHUTDOWN, "The server is shutting down.")
    if not lost.done():
        client.refuse_new(error)
        log.info("stopping", num_open_requests=client.num_open, limit_seconds=shutdown_seconds)
        waits = (client.wait_none_open(), signals.insisted.wait(), over(lost))
        await first(*waits, seconds=shutdown_seconds)
    client.fail_all(error)


async def over(task: asyncio.Task[Any]) -> None:
    """Waits for it, and cancelled leaves it running."""
    await asyncio.wait((task,))


async def first(*waits: Coroutine[Any, Any, object], seconds: float | None = None) -> None:
    """Return when one of `waits` is over, or after `seconds`."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
