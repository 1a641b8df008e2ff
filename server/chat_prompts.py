"""The prompts that the model's chat template makes of conversations, rendered off the loop."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.schema.common import unsupported
from lorax_serve.server.schema.conversation import Conversation
from lorax_serve.server.schema.tools import AskedTools, ToolMode
from lorax_serve.server.text.chat_template import ChatTemplate
from lorax_serve.server.text.tool_calls.formats import (
    FORMATS,
    CallFormat,
    ToolCallParser,
    format_taught_by,
)

NUM_THREADS: Final = 2  # Jinja holds the interpreter's lock: more would only take turns


class ChatPrompts:
    """The template, which of its variables a request may set, and the threads it runs on."""

    def __init__(
        self,
        template: ChatTemplate | None,
        allowed: frozenset[str],
        parser: ToolCallParser = ToolCallParser.AUTO,
    ) -> None:
        self._template = template
        self._allowed = allowed
        self.call_format = _call_format(template, parser)  # how the model writes tool calls
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="template")

    def allows(self, variable: str) -> bool:
        return variable in self._allowed

    async def render(self, conversation: Conversation, tools: AskedTools | None = None) -> str:
        """Raises ServeError for a model without a template, a variable that no request may set,
        tools that the model is to choose from where the template shows it none, and what
        ChatTemplate.render refuses.
        """
        template = self._template
        if template is None:
            raise ServeError(
                ErrorCode.INVALID_REQUEST,
                "This model has no chat template; use /v1/completions.",
                param="messages",
            )
        conversation.check_kwargs(self._allowed)
        shown = None if tools is None else _shown(template, tools)

        def rendered() -> str:
            return template.render(
                conversation.messages,
                add_generation_prompt=conversation.add_generation_prompt,
                continue_final_message=conversation.continue_final_message,
                tools=shown,
                documents=conversation.documents,
                extra=conversation.kwargs,
            )

        return await asyncio.get_running_loop().run_in_executor(self._threads, rendered)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _shown(template: ChatTemplate, tools: AskedTools) -> Sequence[Mapping[str, object]] | None:
    """What the template tells the model of its tools. A call that is forced needs no such words."""
    if template.reads("tools", with_tools=True):
        return tools.shown()
    if tools.mode is ToolMode.AUTO:
        hint = "its model's chat template shows no tools; a call can be forced by `tool_choice`"
        raise unsupported("functions" if tools.is_old else "tools", hint)
    return None


def _call_format(template: ChatTemplate | None, parser: ToolCallParser) -> CallFormat | None:
    if parser is not ToolCallParser.AUTO:
        return FORMATS.get(parser)
    return None if template is None else format_taught_by(template.text_for_tools)
