"""The engine as the rest of the frontend sees it."""

from collections.abc import AsyncGenerator
from typing import Protocol

from lorax_serve.ipc.adapter_report import AdapterReport
from lorax_serve.ipc.messages import AdapterAction, Generate, Pool, PromptPooled, TokensGenerated
from lorax_serve.ipc.types import AdapterRef, EngineInfo


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

    async def pool(self, request: Pool) -> PromptPooled:
        """The vector of a prompt. Raises as `generate`; cancelled, it aborts the request."""

    async def command(
        self, action: AdapterAction, adapter: AdapterRef | None = None
    ) -> AdapterReport | None:
        """Have the engine's tiers changed, or described. Raises ServeError."""
