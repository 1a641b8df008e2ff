"""What every route needs, gathered once at start: the engine, the text side, the limits."""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.ipc.adapter_report import AdapterReport
from lorax_serve.ipc.messages import AdapterAction, Generate, TokensGenerated
from lorax_serve.ipc.types import AdapterRef, EngineInfo
from lorax_serve.server.adapter_resolver import AdapterResolver
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.text.chat_template import ChatTemplate
from lorax_serve.server.text.tokenizer import Tokenizer


class Engine(Protocol):
    """The engine process as the routes see it; `engine_client` is the real one."""

    @property
    def info(self) -> EngineInfo:
        """Raises ServeError (NOT_READY) until the engine is ready."""

    @property
    def is_ready(self) -> bool: ...

    def generate(self, request: Generate) -> AsyncGenerator[TokensGenerated, None]:
        """Events up to and including the one with a finish reason.

        Raises ServeError when the request fails and EngineLost when the engine dies. Closing the
        generator before its end aborts the request.
        """

    async def command(
        self, action: AdapterAction, adapter: AdapterRef | None = None
    ) -> AdapterReport | None:
        """Have the engine's tiers changed, or described. Raises ServeError."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what one client may ask for. Sizes in bytes, times in seconds."""

    max_body_bytes: int = 8 * 2**20
    max_concurrent_requests: int = 256
    max_stop_sequences: int = 16
    max_stop_sequence_bytes: int = 256
    max_stop_token_ids: int = 64
    # `truncate` rescues a prompt of up to this many tokens (or the model's length, if more).
    max_untruncated_tokens: int = 131_072
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    keep_alive_interval: float = 15.0


@dataclass(frozen=True, kw_only=True)
class Service:
    model_id: str
    model_aliases: frozenset[str] = frozenset()  # what else names the base model in a request
    model_revision: str | None
    engine: Engine
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    adapters: LocalAdapters
    resolver: AdapterResolver
    bearer_is_adapter_token: bool = False  # an Authorization header is for the adapter's source
    regex_compiler: RegexCompiler
    limits: Limits
    version: str
    started_at: int = field(default_factory=lambda: int(time.time()))  # Unix seconds

    def is_base(self, name: str) -> bool:
        return name == self.model_id or name in self.model_aliases
