"""One call as a JSON object, read character by character: `{"name": …, "arguments": {…}}`.

Llama calls the arguments `parameters`. They are handed on as they come once the name is known; a
name that comes after them holds them back.
"""

import enum
import json
from typing import Final

from lorax_serve.server.text.tool_calls.events import Arguments, CallBegun, ToolEvent

ARGUMENT_KEYS: Final = ("arguments", "parameters")
MAX_NAME_CHARS: Final = 256
_SPACE: Final = " \t\r\n"


class State(enum.Enum):
    READING = "reading"
    DONE = "done"
    BROKEN = "broken"  # it is not a call, or not JSON


class _Place(enum.Enum):
    START = "start"
    KEY = "before a key"
    KEY_TEXT = "in a key"
    COLON = "before a colon"
    VALUE = "in a value"
    AFTER = "after a value"


class CallObject:
    """Push characters until `state` is no longer READING; take `events` now and then."""

    def __init__(self) -> None:
        self.state = State.READING
        self.events: list[ToolEvent] = []
        self.name: str | None = None
        self._place = _Place.START
        self._key = ""
        self._value: list[str] = []
        self._depth = 0  # of the value's brackets
        self._in_string = self._escaped = False
        self._held: list[str] = []  # arguments that wait for the name
        self._has_arguments = False

    @property
    def has_begun(self) -> bool:
        """Whether the call has been announced: it cannot be taken back."""
        return self.name is not None

    @property
    def awaits_comma(self) -> bool:
        """Whether a value has just ended."""
        return self._place is _Place.AFTER

    def push(self, char: str) -> None:
        match self._place:
            case _Place.VALUE:
                self._push_value(char)
            case _Place.KEY_TEXT:
                self._value.append(char)
                if self._ends_string(char):
                    self._key, self._place = self._text(), _Place.COLON
            case _ if char in _SPACE:
                pass
            case _Place.START:
                self._expect(char == "{", _Place.KEY)
            case _Place.KEY:
                if char == "}":
                    self._end()
                    return
                self._expect(char == '"', _Place.KEY_TEXT)
                self._begin_value(char)
            case _Place.COLON:
                self._expect(char == ":", _Place.VALUE)
                self._begin_value()
            case _Place.AFTER:
                self._push_after(char)

    def _expect(self, is_right: bool, then: _Place) -> None:
        self._place = then
        if not is_right:
            self.state = State.BROKEN

    def _begin_value(self, first: str = "") -> None:
        self._value = [first] if first else []
        self._depth, self._in_string, self._escaped = 0, bool(first), False

    def _push_value(self, char: str) -> None:
        if not self._value and char in _SPACE:
            return
        if self._in_string:
            self._take(char)
            if self._ends_string(char):
                self._in_string = False
                if self._depth == 0:
                    self._end_value()
        elif self._depth == 0 and (char in _SPACE or char in ",}]"):
            self._end_value()
            if char not in _SPACE and self.state is State.READING:
                self._push_after(char)
        else:
            self._take(char)
            self._in_string = char == '"'
            self._depth += (char in "{[") - (char in "}]")
            if self._depth == 0 and char in "}]":
                self._end_value()

    def _ends_string(self, char: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        else:
            return char == '"'
        return False

    def _take(self, char: str) -> None:
        self._value.append(char)
        if self._key in ARGUMENT_KEYS and self._value[0] == "{":
            self._hand_on(char)

    def _hand_on(self, text: str) -> None:
        self._has_arguments = True
        if self.has_begun:
            self.events.append(Arguments(text))
        else:
            self._held.append(text)

    def _end_value(self) -> None:
        self._place = _Place.AFTER
        if self._key == "name":
            self._begin_call()
        elif self._key in ARGUMENT_KEYS and self._value[:1] != ["{"]:
            # Some models write the arguments' JSON as a string, or null for none.
            text = self._text() if self._value[:1] == ['"'] else "".join(self._value)
            if text != "null":
                self._hand_on(text)

    def _begin_call(self) -> None:
        name = self._text() if self._value[:1] == ['"'] else ""
        if self.has_begun or not 0 < len(name) <= MAX_NAME_CHARS:
            self.state = State.BROKEN
            return
        self.name = name
        self.events += [CallBegun(name), Arguments("".join(self._held))]

    def _text(self) -> str:
        """The string that was read; "" where it is not JSON."""
        try:
            text = json.loads("".join(self._value))
        except ValueError:
            return ""
        return text if isinstance(text, str) else ""

    def _push_after(self, char: str) -> None:
        if char == "}":
            self._end()
        else:
            self._expect(char == ",", _Place.KEY)

    def _end(self) -> None:
        self.state = State.DONE if self.has_begun else State.BROKEN
        if self.has_begun and not self._has_arguments:
            self.events.append(Arguments("{}"))
