"""Texts as they grow -> content and calls. What looks like a call and is none is content."""

import enum
import json

from lorax_serve.server.text.tool_calls.call_object import MAX_NAME_CHARS, CallObject, State
from lorax_serve.server.text.tool_calls.events import (
    Arguments,
    CallBegun,
    Content,
    ToolEvent,
    joined,
)
from lorax_serve.server.text.tool_calls.formats import CallFormat

_SPACE = " \t\r\n"
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


class _Mode(enum.Enum):
    CONTENT = "content"
    BETWEEN = "between calls"  # behind an opening
    CALL = "in a call's object"
    NAME = "in a bare name"
    BEFORE_ARGUMENTS = "behind a bare name"
    BARE_ARGUMENTS = "in the arguments behind a bare name"


class NamedCallReader:
    """The whole text is the arguments of one call."""

    def __init__(self, name: str) -> None:
        self._begun: list[ToolEvent] = [CallBegun(name)]

    def push(self, text: str) -> list[ToolEvent]:
        begun, self._begun = self._begun, []
        return joined([*begun, Arguments(text)])

    def finish(self) -> list[ToolEvent]:
        return self.push("")


class CallReader:
    """Calls in one family's format. Space around calls is no content."""

    def __init__(self, form: CallFormat) -> None:
        self._form = form
        self._mode = _Mode.BETWEEN if form.starts_open else _Mode.CONTENT
        self._events: list[ToolEvent] = []
        self._raw: list[str] = []  # since the opening or the last call; content if no call follows
        self._held = ""  # the start of an opening or a closing, perhaps
        self._space: list[str] = []  # after content or a call; content if more of it follows
        self._has_called = self._follows_call = False
        self._call = CallObject()
        self._name = ""

    def push(self, text: str) -> list[ToolEvent]:
        text, self._held = self._held + text, ""
        start = 0
        while start < len(text):
            if self._mode is _Mode.CONTENT:
                start = self._read_content(text, start)
            elif self._mode is _Mode.BETWEEN:
                start = self._read_between(text, start)
            else:
                self._read_call(text[start])
                start += 1
        return self._take_events()

    def finish(self) -> list[ToolEvent]:
        is_cut_off = self._follows_call and self._form.closing.startswith(self._held)
        if self._mode is not _Mode.CONTENT and not self._call_has_begun():
            self._give_up()
        if not is_cut_off:
            self._add_content(self._held)
        if not self._has_called:
            self._events.append(Content("".join(self._space)))
        return self._take_events()

    def _take_events(self) -> list[ToolEvent]:
        events, self._events = joined(self._events), []
        return events

    # -- content

    def _read_content(self, text: str, start: int) -> int:
        """Where to go on."""
        opening = self._form.opening
        found = text.find(opening, start) if opening else -1
        if found < 0:
            stop = len(text) - _overlap(text, start, opening)
            self._add_content(text[start:stop])
            self._held = text[stop:]
            return len(text)
        self._add_content(text[start:found])
        self._mode, self._raw = _Mode.BETWEEN, [opening]
        return found + len(opening)

    def _add_content(self, text: str) -> None:
        if self._follows_call:
            text = text.lstrip(_SPACE)
        shown = text.rstrip(_SPACE)
        if shown:
            self._follows_call = False
            self._events += [*map(Content, self._space), Content(shown)]
            self._space = []
        self._space.append(text[len(shown) :])

    # -- calls

    def _read_between(self, text: str, start: int) -> int:
        for mark in (self._form.closing, self._form.opening):
            if mark and text.startswith(mark, start):
                self._raw.append(mark)
                if mark == self._form.closing:
                    self._close()
                return start + len(mark)
            if mark and len(text) - start < len(mark) and mark.startswith(text[start:]):
                self._held = text[start:]
                return len(text)
        char = text[start]
        if char in _SPACE or char in self._form.separators:
            self._raw.append(char)
        elif char == "{":
            self._call, self._mode = CallObject(), _Mode.CALL
            self._read_call(char)
        elif self._form.bare_names and char in _NAME_CHARS:
            self._mode = _Mode.NAME
            self._raw.append(char)
            self._name = char
        else:
            self._give_up()
            return start
        return start + 1

    def _close(self) -> None:
        if self._raw[0] == self._form.opening:  # nothing was called
            self._give_up()
        self._mode = _Mode.CONTENT

    def _read_call(self, char: str) -> None:
        self._raw.append(char)
        if self._mode is _Mode.NAME and char in _NAME_CHARS:
            self._name += char
            if len(self._name) > MAX_NAME_CHARS:
                self._give_up()
            return
        if self._mode in (_Mode.NAME, _Mode.BEFORE_ARGUMENTS):
            self._mode = _Mode.BEFORE_ARGUMENTS
            if char != "{":
                return  # `[ARGS]` or `[CALL_ID]…`
            self._call, self._mode = CallObject(), _Mode.BARE_ARGUMENTS
            for written in f'{{"name": {json.dumps(self._name)}, "arguments":':
                self._call.push(written)
        self._call.push(char)
        if self._mode is _Mode.BARE_ARGUMENTS and self._call.awaits_comma:
            self._call.push("}")
        self._events += self._call.events
        self._call.events.clear()
        if self._call.has_begun:
            self._has_called = self._follows_call = True
            self._space, self._raw = [], []
        if self._call.state is State.DONE:
            self._mode = _Mode.BETWEEN
        elif self._call.state is State.BROKEN:
            self._give_up()

    def _call_has_begun(self) -> bool:
        return self._mode in (_Mode.CALL, _Mode.BARE_ARGUMENTS) and self._call.has_begun

    def _give_up(self) -> None:
        """What was read since the last call is content."""
        raw, self._raw = "".join(self._raw), []
        self._mode = _Mode.CONTENT
        if raw.strip(_SPACE + self._form.separators) or not self._has_called:
            self._add_content(raw)


def _overlap(text: str, start: int, mark: str) -> int:
    """How many of the last characters may be the beginning of the mark."""
    longest = min(len(mark) - 1, len(text) - start)
    return next((n for n in range(longest, 0, -1) if mark.startswith(text[-n:])), 0)
