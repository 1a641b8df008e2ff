"""The life of a server: engine up, HTTP up, wait, drain, everything down again."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.engine_client import EngineClient
from lorax_serve.server.errors import ServeError
from lorax_serve.server.handshake import ReportProgress
from lorax_serve.server.listening import port_refused
from lorax_serve.server.stop_signals import StopRequested, StopSignals, stop_signals
from lorax_serve.server.supervisor import EngineLaunch, RunningEngine, running_engine

log = structlog.get_logger(__name__)

KEEPALIVE_SECONDS: Final = 75.0  # aiohttp's default is an hour
LAST_WRITE_SECONDS: Final = 2.0  # for a reply whose request has just ended


@dataclass(frozen=True)
class Plan:
    """All that a server's life needs, known before it begins."""

    launch: EngineLaunch
    sockets: Sequence[socket.socket]  # bound, not listening
    build_app: Callable[[EngineClient], web.Application]  # once the engine is ready
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
                async with _http(plan.build_app(engine.client), plan.sockets) as runner:
                    plan.on_ready(engine.client)
                    await _first(signals.requested.wait(), _lost(engine))
                    await _drain(engine, runner, signals, plan.shutdown_seconds)
                return engine.lost.result() if engine.lost.done() else None
        except StopRequested:
            return None


@asynccontextmanager
async def _http(
    app: web.Application, sockets: Sequence[socket.socket]
) -> AsyncIterator[web.AppRunner]:
    """`app` served on the sockets; on leaving, connections get LAST_WRITE_SECONDS."""
    runner = web.AppRunner(
        app,
        handler_cancellation=True,  # a client that leaves takes its request along
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=LAST_WRITE_SECONDS,
        access_log=None,
    )
    await runner.setup()
    try:
        for bound in sockets:
            await _listen(runner, bound)
        yield runner
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, bound: socket.socket) -> None:
    host, port = bound.getsockname()[:2]
    try:
        await web.SockSite(runner, bound).start()
    except OSError as error:  # another server was loading at the same time, and was faster
        raise port_refused(error, host, port) from error


async def _drain(
    engine: RunningEngine, runner: web.AppRunner, signals: StopSignals, seconds: float
) -> None:
    """Take nothing new; let the open requests end within `seconds`, then fail the rest.

    A second signal, or the loss of the engine, ends the wait.
    """
    for site in list(runner.sites):
        await site.stop()
    error = ServeError(ErrorCode.SERVER_SHUTDOWN, "The server is shutting down.")
    if not engine.lost.done():
        engine.client.refuse_new(error)
        log.info("stopping", num_open_requests=engine.client.num_open, seconds=seconds)
        waits = (engine.client.wait_none_open(), signals.insisted.wait(), _lost(engine))
        await _first(*waits, seconds=seconds)
    engine.client.fail_all(error)


async def _lost(engine: RunningEngine) -> None:
    await asyncio.wait((engine.lost,))


async def _first(*waits: Coroutine[Any, Any, object], seconds: float | None = None) -> None:
    """Return when one of `waits` is over, or after `seconds`."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
