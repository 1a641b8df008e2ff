"""One engine from its start to its end, with the client that speaks to it.

Engine death is noticed at once and reported to every open request.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.link import FrontendLink, LinkError
from lorax_serve.ipc.types import EngineInfo, ErrorCode
from lorax_serve.server.engine_client import EngineClient
from lorax_serve.server.engine_process import ENGINE_COMMAND, EngineProcess
from lorax_serve.server.errors import EngineLost, ServeError, StartError
from lorax_serve.server.handshake import ReportProgress, handshake
from lorax_serve.server.runtime_dir import engine_endpoint, runtime_dir
from lorax_serve.server.stop_signals import StopRequested, StopSignals

log = structlog.get_logger(__name__)

_LAST_WORDS_SECONDS: Final = 0.5  # for the message of an engine that has just ended


@dataclass(frozen=True)
class EngineLaunch:
    """How to start an engine."""

    config: Callable[[str], EngineConfig]  # given the endpoint
    environment: Mapping[str, str]
    runtime_parent: Path
    command: Sequence[str] = ENGINE_COMMAND


@dataclass(frozen=True)
class RunningEngine:
    client: EngineClient
    endpoint: str
    folder: Path  # private, of this server
    lost: asyncio.Task[str]  # done when the engine is lost; a sentence for the operator
    pid: int


@asynccontextmanager
async def running_engine(
    launch: EngineLaunch, report: ReportProgress, signals: StopSignals
) -> AsyncIterator[RunningEngine]:
    """A ready engine. When the block ends the process is gone, and its socket's folder too.

    Raises StartError when the engine does not get ready, StopRequested when a signal came first.
    """
    with runtime_dir(launch.runtime_parent) as folder:
        endpoint = engine_endpoint(folder)
        process = EngineProcess(launch.config(endpoint), launch.environment, launch.command)
        try:
            link = FrontendLink(endpoint)
            try:
                info = await _introduced(process, handshake(link, report), signals)
                client = EngineClient(link, info)
                watch = asyncio.create_task(watch_engine(process.wait, client))
                try:
                    yield RunningEngine(client, endpoint, folder, watch, process.pid)
                finally:
                    watch.cancel()
            finally:
                link.close()
        finally:
            await process.stop(signals.insisted)


async def _introduced(
    process: EngineProcess, greeting: Coroutine[Any, Any, EngineInfo], signals: StopSignals
) -> EngineInfo:
    """The handshake's outcome, unless the process ends or is not wanted any more."""
    introduced = asyncio.create_task(greeting)
    death = asyncio.create_task(process.wait())
    stop = asyncio.create_task(signals.requested.wait())
    try:
        await asyncio.wait((introduced, death, stop), return_when=asyncio.FIRST_COMPLETED)
        if death.done() and not introduced.done():
            await asyncio.wait((introduced,), timeout=_LAST_WORDS_SECONDS)
        if introduced.done():
            return introduced.result()
        if death.done():
            raise StartError(f"The engine {death.result()} while starting; see its lines above.")
        raise StopRequested
    finally:
        for task in (introduced, death, stop):
            task.cancel()


async def watch_engine(ended: Callable[[], Coroutine[Any, Any, str]], client: EngineClient) -> str:
    """Dispatch events until the engine is lost, then fail what is open. Says what happened.

    `ended` returns when the engine has, with words that follow "the engine".
    """
    dispatch = asyncio.create_task(_dispatch(client))
    death = asyncio.create_task(ended())
    try:
        done, _ = await asyncio.wait((dispatch, death), return_when=asyncio.FIRST_COMPLETED)
        sentence = f"The engine {(death if death in done else dispatch).result()}."
        log.error("engine_lost", reason=sentence, num_open_requests=client.num_open)
        return sentence
    finally:
        gone = ServeError(ErrorCode.ENGINE_LOST, "The engine has stopped.")
        client.fail_all(EngineLost(), refusal=gone)
        dispatch.cancel()
        death.cancel()


async def _dispatch(client: EngineClient) -> str:
    try:
        await client.run()
    except LinkError as error:
        return f"cannot be understood: {error}"
