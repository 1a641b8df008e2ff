"""The adapters an operator wants loaded before the server says that it is ready."""

import asyncio

import structlog

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.adapter_desk import AdapterDesk
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.option_checks import names

log = structlog.get_logger(__name__)


async def preload(desk: AdapterDesk, config: ServerConfig) -> None:
    """Load what --preload names and pin what --pin names, all at the same time.

    Raises StartError, naming the adapter, when one cannot be had.
    """
    wanted = dict.fromkeys(names(config.preload), False)
    wanted |= dict.fromkeys(names(config.pin), True)
    try:
        async with asyncio.TaskGroup() as tasks:
            for name, pin in wanted.items():
                tasks.create_task(_one(desk, name, config.preload_source, pin=pin))
    except* StartError as failures:
        raise failures.exceptions[0] from None


async def _one(desk: AdapterDesk, name: str, source: str | None, *, pin: bool) -> None:
    try:
        await desk.operations.preload(name, source, pin=pin)
    except ServeError as error:
        flag = "--pin" if pin else "--preload"
        meant = None
        if error.code is ErrorCode.MODEL_NOT_FOUND:
            meant = await desk.hints.closest(name)
        hint = "" if meant is None else f" Did you mean {meant!r}?"
        raise StartError(f"{flag} {name}: {error.message}{hint}") from error
    log.info("adapter_preloaded", adapter=name, pinned=pin)
