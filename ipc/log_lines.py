"""How both processes write a log line: it never fails who logs, and nothing in it can forge one.

A disk that is full, or a collector that is gone, loses lines and nothing else. What cannot be
printed (line breaks, terminal escapes, marks that turn text around) is written as Python would
write it in a string. The lines of a traceback are indented: none looks like a line of ours.
"""

import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

_INDENT: Final = "    "
_FIRST: Final = ("timestamp", "level", "event")


class LineWriter:
    """Makes loggers for structlog that write to `output`."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def __call__(self, *names: object) -> "LineLogger":
        return LineLogger(self._output)


class LineLogger(structlog.WriteLogger):
    """A line that cannot be written is lost: there is nowhere left to say so."""

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            super().msg(message)

    debug = info = warning = error = critical = exception = msg


def json_rendering() -> list[Processor]:
    """One JSON object a line, which in ASCII escapes whatever cannot be printed."""
    return [
        structlog.processors.format_exc_info,
        _what_people_look_for_first,
        structlog.processors.JSONRenderer(),
    ]


def text_rendering(*, colors: bool) -> list[Processor]:
    return [
        _printable_values,
        # Its default would print the local variables of every frame, prompts among them.
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_write_traceback),
    ]


def printable(text: str) -> str:
    """`text` in one line, with escapes for what does something else than show itself."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _what_people_look_for_first(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return {**{key: event[key] for key in _FIRST if key in event}, **event}


def _printable_values(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    return {
        printable(key): printable(value) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _write_traceback(output: TextIO, exc_info: ExcInfo) -> None:
    for line in _lines(traceback.format_exception(*exc_info)):
        output.write(f"\n{_INDENT}{printable(line)}")


def _lines(parts: Sequence[str]) -> Sequence[str]:
    """At line feeds alone: what else ends a line somewhere is escaped."""
    return "".join(parts).removesuffix("\n").split("\n")
