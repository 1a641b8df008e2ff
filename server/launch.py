"""The start of a server, in order: port, model, text side, engine, HTTP.

What can block is done before there is an event loop, where Ctrl-C simply interrupts it.
"""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import closing
from typing import Final

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from lorax_serve.grammar.control_tokens import load_control_tokens
from lorax_serve.grammar.errors import UnsupportedTokenizer
from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.sizes import show_size
from lorax_serve.server.adapter_desk import open_desk
from lorax_serve.server.adapter_setup import build_resolver
from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.app import build_app
from lorax_serve.server.banner import Banner
from lorax_serve.server.config import LogLevel, Settings
from lorax_serve.server.engine_client import EngineClient
from lorax_serve.server.engine_process import ENGINE_COMMAND
from lorax_serve.server.errors import StartError
from lorax_serve.server.interpreter import prepare_interpreter
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.lifetime import Plan, live
from lorax_serve.server.listening import bound_sockets, url
from lorax_serve.server.logging import configure_logging, say
from lorax_serve.server.model_source import ModelSource, find_model
from lorax_serve.server.option_checks import names
from lorax_serve.server.preload import preload
from lorax_serve.server.progress import Progress, ProgressBar, ProgressLines
from lorax_serve.server.service import Limits, Service
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.supervisor import EngineLaunch
from lorax_serve.server.text.chat_template import ChatTemplate
from lorax_serve.server.text.isolated_templates import IsolatedTemplates
from lorax_serve.server.text.tokenizer import Tokenizer
from lorax_serve.server.text.tokenizer_config import TokenizerConfig
from lorax_serve.server.version import version

log = structlog.get_logger(__name__)

EXIT_STOPPED: Final = 0
EXIT_START: Final = 1
EXIT_ENGINE_LOST: Final = 70


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
    return EXIT_ENGINE_LOST


def _serve(settings: Settings, engine_command: Sequence[str]) -> str | None:
    config = settings.server
    lines = settings.logs_json or not settings.surroundings.is_terminal
    progress: Progress = ProgressLines() if lines else ProgressBar()
    with bound_sockets(config.host, config.port) as sockets, closing(progress):
        source = find_model(config, lambda line: log.info(line))
        with closing(Tokenizer.from_folder(source.folder)) as tokenizer:
            serving = _Serving(settings, source, tokenizer, sockets, progress)
            return asyncio.run(live(serving.plan(engine_command)))


class _Serving:
    """What is known before the engine runs, and what is made of it once it does."""

    def __init__(
        self,
        settings: Settings,
        source: ModelSource,
        tokenizer: Tokenizer,
        sockets: Sequence[socket.socket],
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._source = source
        self._tokenizer = tokenizer
        self._sockets = sockets
        self._progress = progress
        self._chat_template = ChatTemplate.from_folder(source.folder)
        self._adapter_templates = (
            IsolatedTemplates(TokenizerConfig.from_folder(source.folder).template_variables())
            if settings.server.adapter_chat_templates
            else None
        )
        self._adapters = LocalAdapters(
            source.adapter_dir, allow_absolute=settings.server.allow_absolute_adapters
        )
        self._resolver = build_resolver(
            settings.server, self._adapters, has_folder=source.adapter_dir is not None
        )

    def plan(self, engine_command: Sequence[str]) -> Plan:
        surroundings = self._settings.surroundings
        return Plan(
            launch=EngineLaunch(
                config=self._engine_config,
                environment=surroundings.engine_environment,
                runtime_parent=surroundings.runtime_parent,
                command=engine_command,
            ),
            sockets=self._sockets,
            build_app=lambda client: build_app(self._service(client)),
            prepare=self._prepare,
            report=self._progress.update,
            on_ready=self._announce,
            shutdown_seconds=self._settings.server.shutdown_timeout,
        )

    async def _prepare(self, app: web.Application) -> None:
        """Raises StartError for an adapter that was to be here and cannot be."""
        try:
            await preload(app[SERVICE].desk, self._settings.server)
        except BaseException:  # an app that never runs has no cleanup of its own
            await self._resolver.close()
            raise
        prepare_interpreter()

    def _engine_config(self, endpoint: str) -> EngineConfig:
        return self._settings.engine_config(
            endpoint=endpoint, model_path=self._source.folder, model_name=self._source.model_id
        )

    def _service(self, client: EngineClient) -> Service:
        config = self._settings.server
        base_names = frozenset((self._source.model_id, *self._source.aliases))
        registry = CollectorRegistry()
        return Service(
            model_id=self._source.model_id,
            model_aliases=self._source.aliases,
            model_revision=self._source.revision,
            engine=client,
            tokenizer=self._tokenizer,
            chat_template=self._chat_template,
            adapter_templates=self._adapter_templates,
            chat_template_kwargs=frozenset(names(config.chat_template_kwargs)),
            tool_call_parser=config.tool_call_parser,
            resolver=self._resolver,
            desk=open_desk(
                client,
                self._resolver,
                self._adapters,
                base_names=base_names,
                registry=registry,
                max_labels=config.metrics_max_adapters,
            ),
            metrics=registry,
            admin_key=None if config.admin_key is None else AdminKey(config.admin_key),
            embedding_pooling=config.embedding_pooling,
            bearer_is_adapter_token=config.bearer_is_adapter_token,
            prefix_cache_scope=config.prefix_cache_scope,
            regex_compiler=self._regex_compiler(client.info.eos_token_ids),
            control_tokens=load_control_tokens(
                self._source.folder / "tokenizer.json", client.info.eos_token_ids
            ),
            limits=Limits(
                max_body_bytes=config.max_body_bytes,
                max_concurrent_requests=config.max_concurrent_requests,
                max_choices=config.max_choices,
                max_stop_sequences=config.max_stop_sequences,
            ),
            logs_requests=self._settings.log_level is LogLevel.DEBUG,
            version=version(),
        )

    def _regex_compiler(self, eos_token_ids: Sequence[int]) -> RegexCompiler:
        try:
            return RegexCompiler(self._source.folder / "tokenizer.json", eos_token_ids)
        except UnsupportedTokenizer as error:
            raise StartError(f"The model's tokenizer cannot be served: {error}") from error

    def _announce(self, client: EngineClient) -> None:
        self._progress.close()
        banner = Banner(
            version=version(),
            source=self._source,
            info=client.info,
            config=self._settings.server,
            num_adapters=len(self._adapters.list()),
            adapter_cache_dir=self._resolver.cache_dir,
            urls=tuple(map(url, self._sockets)),
        )
        if not banner.num_fitting_rank_16:
            log.warning(
                "adapter_memory_below_one_of_rank_16",
                adapter_memory=show_size(client.info.adapter_pool_bytes),
                one_of_rank_16_on_every_layer=show_size(client.info.typical_adapter_bytes),
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
