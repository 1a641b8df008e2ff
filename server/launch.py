"""The start of a server, in order: port, model, text side, engine, HTTP.

What can block is done before there is an event loop, where Ctrl-C simply interrupts it.
"""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.sizes import show_size
from lorax_serve.ipc.types import EngineInfo
from lorax_serve.server.app import build_app
from lorax_serve.server.banner import Banner
from lorax_serve.server.config import LogLevel, Settings
from lorax_serve.server.engine_client import EngineClient
from lorax_serve.server.engine_process import ENGINE_COMMAND
from lorax_serve.server.errors import StartError
from lorax_serve.server.frontends.group import GroupPlan, live_in_group
from lorax_serve.server.frontends.start import frontend_starts
from lorax_serve.server.interpreter import prepare_interpreter
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.lifetime import Plan, live
from lorax_serve.server.listening import bound_sockets, url
from lorax_serve.server.logging import configure_logging, say
from lorax_serve.server.model_source import ModelSource, find_model
from lorax_serve.server.preload import preload
from lorax_serve.server.progress import Progress, ProgressBar, ProgressLines
from lorax_serve.server.service_setup import ServiceSetup, local_adapters
from lorax_serve.server.supervisor import EngineLaunch
from lorax_serve.server.text.tokenizer import Tokenizer
from lorax_serve.server.version import version

log = structlog.get_logger(__name__)

EXIT_STOPPED: Final = 0
EXIT_START: Final = 1
EXIT_PROCESS_LOST: Final = 70


def run(settings: Settings, engine_command: Sequence[str] = ENGINE_COMMAND) -> int:
    """Serve until stopped; the process's exit code. Raises KeyboardInterrupt before it serves."""
    level, colors = settings.log_level.value, settings.surroundings.wants_colors
    configure_logging(level, json=settings.logs_json, colors=colors)
    for name in settings.unread:
        log.warning("environment_variable_not_read", name=name)
    try:
        lost = _serve(settings, engine_command)
    except StartError as error:
        return _report_start_error(error, settings)
    if lost is None:
        log.info("stopped")
        return EXIT_STOPPED
    log.critical("stopped", reason=lost)
    return EXIT_PROCESS_LOST


def _serve(settings: Settings, engine_command: Sequence[str]) -> str | None:
    config = settings.server
    lines = settings.logs_json or not settings.surroundings.is_terminal
    progress: Progress = ProgressLines() if lines else ProgressBar()
    with bound_sockets(config.host, config.port) as sockets, closing(progress):
        source = find_model(config, lambda line: log.info(line))
        start = _Start(settings, source, sockets, progress, engine_command)
        with closing(Tokenizer.from_folder(source.folder)) as tokenizer:
            if config.frontends == 1:
                logs_requests = settings.log_level is LogLevel.DEBUG
                setup = ServiceSetup(config, source, tokenizer, logs_requests=logs_requests)
                return asyncio.run(live(start.plan(setup)))
        return asyncio.run(live_in_group(start.group_plan()))


class _Start:
    """What is known before the engine runs, and what is said once all do."""

    def __init__(
        self,
        settings: Settings,
        source: ModelSource,
        sockets: Sequence[socket.socket],
        progress: Progress,
        engine_command: Sequence[str],
    ) -> None:
        self._settings = settings
        self._source = source
        self._sockets = sockets
        self._urls = tuple(map(url, sockets))
        self._progress = progress
        self._engine_command = engine_command

    def plan(self, setup: ServiceSetup) -> Plan:
        """For a frontend in this process."""

        async def prepare(app: web.Application) -> None:
            """Raises StartError for an adapter that was to be here and cannot be."""
            try:
                await preload(app[SERVICE].desk, self._settings.server)
            except BaseException:  # an app that never runs has no cleanup of its own
                await setup.resolver.close()
                raise
            prepare_interpreter()

        def build(client: EngineClient) -> web.Application:
            return build_app(setup.service(client))

        return Plan(
            launch=self._launch(),
            sockets=self._sockets,
            build_app=build,
            prepare=prepare,
            report=self._progress.update,
            on_ready=lambda client: self._announce(client.info, setup.resolver.cache_dir),
            shutdown_seconds=self._settings.server.shutdown_timeout,
        )

    def group_plan(self) -> GroupPlan:
        """For frontends in processes of their own."""
        return GroupPlan(
            launch=self._launch(),
            sockets=self._sockets,
            starts=lambda endpoint, folder: frontend_starts(
                self._settings, self._source, self._sockets, endpoint, folder
            ),
            environment=self._settings.surroundings.frontend_environment,
            report=self._progress.update,
            on_ready=self._announce,
            shutdown_seconds=self._settings.server.shutdown_timeout,
        )

    def _launch(self) -> EngineLaunch:
        surroundings = self._settings.surroundings
        return EngineLaunch(
            config=self._engine_config,
            environment=surroundings.engine_environment,
            runtime_parent=surroundings.runtime_parent,
            command=self._engine_command,
        )

    def _engine_config(self, endpoint: str) -> EngineConfig:
        return self._settings.engine_config(
            endpoint=endpoint, model_path=self._source.folder, model_name=self._source.model_id
        )

    def _announce(self, info: EngineInfo, adapter_cache_dir: Path | None = None) -> None:
        """`adapter_cache_dir`: where fetched adapters are kept; None: each frontend has its own."""
        self._progress.close()
        config = self._settings.server
        banner = Banner(
            version=version(),
            source=self._source,
            info=info,
            config=config,
            num_adapters=len(local_adapters(config, self._source).list()),
            adapter_cache_dir=adapter_cache_dir,
            urls=self._urls,
        )
        if not banner.num_fitting_rank_16:
            log.warning(
                "adapter_memory_below_one_of_rank_16",
                adapter_memory=show_size(info.adapter_pool_bytes),
                one_of_rank_16_on_every_layer=show_size(info.typical_adapter_bytes),
            )
        if self._settings.logs_json:
            log.info("ready", **banner.fields())
        else:
            say(banner.text())


def _report_start_error(error: StartError, settings: Settings) -> int:
    if settings.logs_json or settings.server.debug:
        log.critical("start_failed", reason=str(error), exc_info=settings.server.debug)
    else:
        say(f"lorax-serve: {error}\n")
    return EXIT_START
