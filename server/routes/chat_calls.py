"""What a choice of a chat says: its text, or the calls of tools that the text holds."""

import secrets
import string
from collections.abc import Iterator, Sequence
from typing import Final

from lorax_serve.server.generation import End, Finish
from lorax_serve.server.routes.openai_parts import FINISH_REASON
from lorax_serve.server.schema.openai_replies import (
    CalledFunction,
    ChatDelta,
    ChatMessage,
    FinishReason,
    ToolCall,
)
from lorax_serve.server.schema.tools import AskedTools, ToolMode
from lorax_serve.server.text.tool_calls.events import (
    Arguments,
    CallBegun,
    Content,
    ToolEvent,
    ToolReader,
)
from lorax_serve.server.text.tool_calls.formats import (
    FORCED_CALLS,
    FORMATS,
    CallFormat,
    ToolCallParser,
)
from lorax_serve.server.text.tool_calls.readers import CallReader, NamedCallReader

_SHORT_ID_CHARS: Final = string.ascii_letters + string.digits


class ChoiceCalls:
    """Reads one choice of a request with tools, as it grows or at once."""

    def __init__(self, tools: AskedTools, form: CallFormat | None) -> None:
        """`form` is how the model writes calls by itself; None: it never does."""
        self._tools = tools
        self._has_short_ids = form is FORMATS[ToolCallParser.MISTRAL]
        self._reader = _reader(tools, form)
        self._num_calls = 0

    def message(self, text: str) -> ChatMessage:
        """The whole of it."""
        content: list[str] = []
        calls: list[ToolCall] = []
        for event in self._kept([*self._reader.push(text), *self._reader.finish()]):
            match event:
                case Content(more):
                    content.append(more)
                case CallBegun(name):
                    called = CalledFunction(name, "")
                    calls.append(ToolCall(id=self._new_id(), type="function", function=called))
                case Arguments(more):
                    before = calls[-1].function
                    called = CalledFunction(before.name, f"{before.arguments}{more}")
                    calls[-1] = ToolCall(id=calls[-1].id, type="function", function=called)
        said = "".join(content) or (None if calls else "")
        if not calls:
            return ChatMessage(said)
        if self._tools.is_old:
            return ChatMessage(said, function_call=calls[0].function)
        return ChatMessage(said, tool_calls=tuple(calls))

    def deltas(self, text: str, *, is_last: bool) -> Iterator[ChatDelta]:
        """What the next of the text adds."""
        events = self._reader.push(text)
        if is_last:
            events += self._reader.finish()
        for event in self._kept(events):
            match event:
                case Content(more):
                    yield ChatDelta(content=more)
                case CallBegun(name):
                    yield self._begun(name)
                case Arguments(more):
                    yield self._continued(more)

    def finish_reason(self, finish: Finish) -> FinishReason:
        """After all of the text. A call that was asked for by name ends with "stop", as OpenAI's
        does."""
        reason = FINISH_REASON[finish.end]
        if finish.end is End.LENGTH or not self._num_calls or self._tools.mode is ToolMode.NAMED:
            return reason
        return "function_call" if self._tools.is_old else "tool_calls"

    def _kept(self, events: Sequence[ToolEvent]) -> Iterator[ToolEvent]:
        """No second call where one is allowed, and no content where only calls are."""
        for event in events:
            if isinstance(event, CallBegun):
                self._num_calls += 1
            is_call = not isinstance(event, Content)
            is_beyond = is_call and self._num_calls > 1 and not self._tools.parallel
            if not is_beyond and (is_call or self._tools.mode is ToolMode.AUTO):
                yield event

    def _begun(self, name: str) -> ChatDelta:
        called = CalledFunction(name, "")
        if self._tools.is_old:
            return ChatDelta(function_call=called)
        index = self._num_calls - 1
        call = ToolCall(index=index, id=self._new_id(), type="function", function=called)
        return ChatDelta(tool_calls=(call,))

    def _continued(self, arguments: str) -> ChatDelta:
        called = CalledFunction(arguments=arguments)
        if self._tools.is_old:
            return ChatDelta(function_call=called)
        return ChatDelta(tool_calls=(ToolCall(index=self._num_calls - 1, function=called),))

    def _new_id(self) -> str:
        if self._has_short_ids:  # its templates take back no others
            return "".join(secrets.choice(_SHORT_ID_CHARS) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"


def _reader(tools: AskedTools, form: CallFormat | None) -> ToolReader:
    if tools.mode is ToolMode.NAMED:
        return NamedCallReader(tools.functions[0].name)
    if tools.mode is ToolMode.REQUIRED:
        return CallReader(FORCED_CALLS)
    return CallReader(CallFormat("")) if form is None else CallReader(form)
