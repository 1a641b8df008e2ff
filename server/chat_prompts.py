"""The prompts that a chat template makes of conversations, rendered off the loop."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.schema.common import unsupported
from lorax_serve.server.schema.conversation import Conversation
from lorax_serve.server.schema.tools import AskedTools, ToolMode
from lorax_serve.server.text.chat_template import ChatTemplate
from lorax_serve.server.text.isolated_templates import IsolatedTemplates, TemplateChild
from lorax_serve.server.text.template_child import Render
from lorax_serve.server.text.tool_calls.formats import (
    FORMATS,
    CallFormat,
    ToolCallParser,
    format_taught_by,
)

NUM_THREADS: Final = 2  # Jinja holds the interpreter's lock: more would only take turns


class Chat(Protocol):
    """One template, ready to render."""

    async def render(self, conversation: Conversation, tools: AskedTools | None = None) -> str:
        """Raises ServeError for a model without a template, a variable that no request may set,
        tools that the model is to choose from where the template shows it none, and what
        ChatTemplate.render refuses.
        """


class ChatPrompts:
    """The model's template, which variables a request may set, and where templates are rendered.

    `isolated` is where those of adapters are; None: the operator does not want them.
    """

    def __init__(
        self,
        template: ChatTemplate | None,
        allowed: frozenset[str],
        parser: ToolCallParser = ToolCallParser.AUTO,
        isolated: IsolatedTemplates | None = None,
    ) -> None:
        self._template = template
        self._allowed = allowed
        self._isolated = isolated
        self.call_format = _call_format(template, parser)  # how the model writes tool calls
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="template")

    @property
    def reads_adapters(self) -> bool:
        """Whether an adapter's own template counts."""
        return self._isolated is not None

    def allows(self, variable: str) -> bool:
        return variable in self._allowed

    @property
    def base(self) -> Chat:
        return _BaseChat(self._template, self._allowed, self._threads)

    @asynccontextmanager
    async def of_adapter(self, sources: Mapping[str, str]) -> AsyncIterator[Chat]:
        """With the templates that came with an adapter; with the model's where there are none.

        Raises ServeError; see IsolatedTemplates.
        """
        if self._isolated is None or not sources:
            yield self.base
            return
        async with self._isolated.open(sources) as child:
            yield _AdapterChat(child, self._allowed)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._isolated is not None:
            await self._isolated.close()


@dataclass(frozen=True, slots=True)
class _BaseChat:
    template: ChatTemplate | None
    allowed: frozenset[str]
    threads: Executor

    async def render(self, conversation: Conversation, tools: AskedTools | None = None) -> str:
        template = self.template
        if template is None:
            raise ServeError(
                ErrorCode.INVALID_REQUEST,
                "This model has no chat template; use /v1/completions.",
                param="messages",
            )
        conversation.check_kwargs(self.allowed)
        shown = _shown(tools, shows_tools=template.shows_tools)

        def rendered() -> str:
            return template.render(
                conversation.messages,
                add_generation_prompt=conversation.add_generation_prompt,
                continue_final_message=conversation.continue_final_message,
                tools=shown,
                documents=conversation.documents,
                extra=conversation.kwargs,
            )

        return await asyncio.get_running_loop().run_in_executor(self.threads, rendered)


@dataclass(frozen=True, slots=True)
class _AdapterChat:
    child: TemplateChild
    allowed: frozenset[str]

    async def render(self, conversation: Conversation, tools: AskedTools | None = None) -> str:
        conversation.check_kwargs(self.allowed)
        return await self.child.render(
            Render(
                messages=conversation.messages,
                add_generation_prompt=conversation.add_generation_prompt,
                continue_final_message=conversation.continue_final_message,
                tools=_shown(tools, shows_tools=self.child.shows_tools),
                documents=conversation.documents,
                extra=conversation.kwargs,
            )
        )


def _shown(tools: AskedTools | None, *, shows_tools: bool) -> Sequence[Mapping[str, object]] | None:
    """What the template tells the model of its tools. A call that is forced needs no such words."""
    if tools is None:
        return None
    if shows_tools:
        return tools.shown()
    if tools.mode is ToolMode.AUTO:
        hint = "its model's chat template shows no tools; a call can be forced by `tool_choice`"
        raise unsupported("functions" if tools.is_old else "tools", hint)
    return None


def _call_format(template: ChatTemplate | None, parser: ToolCallParser) -> CallFormat | None:
    if parser is not ToolCallParser.AUTO:
        return FORMATS.get(parser)
    return None if template is None else format_taught_by(template.text_for_tools)
