"""The life of a server with several frontend processes: engine up, frontends up, wait, drain.

This process answers no request. It holds the port until the frontends have it, hears the signals,
and watches: with the engine or a frontend gone the server ends, and whoever runs it starts it anew.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from lorax_serve.ipc.types import EngineInfo
from lorax_serve.server.config import Environment
from lorax_serve.server.errors import StartError
from lorax_serve.server.frontends.process import FrontendProcess
from lorax_serve.server.frontends.start import FrontendStart, Order, Stage
from lorax_serve.server.handshake import ReportProgress
from lorax_serve.server.http_server import LAST_WRITE_SECONDS
from lorax_serve.server.lifetime import first, over
from lorax_serve.server.stop_signals import StopRequested, StopSignals, stop_signals
from lorax_serve.server.supervisor import EngineLaunch, RunningEngine, running_engine

log = structlog.get_logger(__name__)

_END_SECONDS: Final = 5.0  # for a frontend that has nothing open any more


@dataclass(frozen=True)
class GroupPlan:
    """All that such a server's life needs, known before it begins."""

    launch: EngineLaunch
    sockets: Sequence[socket.socket]  # bound, not listening
    starts: Callable[[str, Path], list[FrontendStart]]  # by the engine's endpoint, and its folder
    environment: Environment  # of the frontends
    report: ReportProgress
    on_ready: Callable[[EngineInfo], None]  # once HTTP answers
    shutdown_seconds: float  # for open requests after the first signal


async def live_in_group(plan: GroupPlan) -> str | None:
    """Serve until a signal comes or a process is lost; in the latter case, what happened.

    Raises StartError when the server does not get as far as serving.
    """
    with stop_signals() as signals:
        try:
            async with (
                running_engine(plan.launch, plan.report, signals) as engine,
                _running(plan, engine, signals) as frontends,
            ):
                await _unless_stopped(_started(frontends, plan.sockets), engine, signals)
                plan.on_ready(engine.client.info)
                return await _served(frontends, engine, signals, plan.shutdown_seconds)
        except StopRequested:
            return None


@asynccontextmanager
async def _running(
    plan: GroupPlan, engine: RunningEngine, signals: StopSignals
) -> AsyncIterator[Sequence[FrontendProcess]]:
    """The processes; when the block ends they are gone."""
    frontends: list[FrontendProcess] = []
    try:
        for start in plan.starts(engine.endpoint, engine.folder):
            frontends.append(FrontendProcess(start, plan.environment))
        yield frontends
    finally:
        await asyncio.gather(*(each.stop(signals.insisted) for each in frontends))


async def _started(frontends: Sequence[FrontendProcess], sockets: Sequence[socket.socket]) -> None:
    """None answers before all can. Raises StartError."""
    await asyncio.gather(*(each.reached(Stage.PREPARED) for each in frontends))
    for each in frontends:
        each.tell(Order.SERVE)
    await asyncio.gather(*(each.reached(Stage.SERVING) for each in frontends))
    for bound in sockets:
        bound.close()  # when the frontends close theirs, clients are refused


async def _unless_stopped(
    start: Coroutine[Any, Any, None], engine: RunningEngine, signals: StopSignals
) -> None:
    """Raises StopRequested when a signal comes first, and StartError."""
    starting = asyncio.create_task(start)
    try:
        await first(over(starting), over(engine.lost), signals.requested.wait())
        if starting.done():
            return starting.result()
        if engine.lost.done():
            raise StartError(engine.lost.result())
        raise StopRequested
    finally:
        starting.cancel()
        await asyncio.wait((starting,))


async def _served(
    frontends: Sequence[FrontendProcess],
    engine: RunningEngine,
    signals: StopSignals,
    shutdown_seconds: float,
) -> str | None:
    """Until all frontends have ended, for whatever reason: what was lost, if anything was."""
    ends = [asyncio.create_task(each.wait()) for each in frontends]
    relays = [
        asyncio.create_task(_relay(wait, order, frontends))
        for wait, order in (
            (signals.insisted.wait, Order.INSIST),
            (partial(over, engine.lost), Order.LOST),
        )
    ]
    try:
        await first(signals.requested.wait(), over(engine.lost), *map(over, ends))
        lost = None if signals.requested.is_set() or engine.lost.done() else _loss(ends)
        for each in frontends:
            each.tell(Order.STOP)
        await asyncio.wait(ends, timeout=shutdown_seconds + LAST_WRITE_SECONDS + _END_SECONDS)
        return engine.lost.result() if engine.lost.done() else lost
    finally:
        for task in (*ends, *relays):
            task.cancel()


def _loss(ends: Sequence[asyncio.Task[str]]) -> str:
    sentence = f"A frontend process {next(end for end in ends if end.done()).result()}."
    log.error("frontend_process_lost", reason=sentence)
    return sentence


async def _relay(
    wait: Callable[[], Coroutine[Any, Any, object]],
    order: Order,
    frontends: Sequence[FrontendProcess],
) -> None:
    await wait()
    for each in frontends:
        each.tell(order)
