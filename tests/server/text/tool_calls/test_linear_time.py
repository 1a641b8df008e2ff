"""What a reader does with a text is in proportion to its length, whatever the text.

Counted are the characters that its operations on strings read or copy, by strings that keep the
count themselves, and the events that come out. A long text goes through in one push, as in a reply
that is not streamed, and in small ones, as in a stream.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import pytest

from lorax_serve.server.text.tool_calls.events import ToolEvent, ToolReader
from lorax_serve.server.text.tool_calls.formats import (
    FORCED_CALLS,
    FORMATS,
    CallFormat,
    ToolCallParser,
)
from lorax_serve.server.text.tool_calls.readers import CallReader

LENGTH = 2**12
LONGEST = 2**20
# Of each character: a few comparisons, a few searches for its class, copies of the marks' length.
MOST_PER_CHARACTER = 40
PIECE = 4  # characters of a token, roughly

FORMS = {
    "hermes": FORMATS[ToolCallParser.HERMES],
    "llama": FORMATS[ToolCallParser.LLAMA3_JSON],
    "mistral": FORMATS[ToolCallParser.MISTRAL],
    "forced": FORCED_CALLS,
}

# Texts that make readers wait, hold back, give up or start anew, over and over.
UNITS: dict[str, Callable[[CallFormat], tuple[str, str]]] = {
    "prose": lambda form: ("", "a word and "),
    "spaces": lambda form: ("", " "),
    "spaces behind a word": lambda form: ("x", " \n"),
    "openings": lambda form: ("", form.opening or "["),
    "openings and prose": lambda form: ("", (form.opening or "[") + "no "),
    "half openings": lambda form: ("", (form.opening or "[{")[:-1]),
    "first characters of an opening": lambda form: ("", (form.opening or "[")[:1]),
    "a long bare name": lambda form: (form.opening, "a"),
    "behind a bare name": lambda form: (form.opening + "f", "[CALL_ID] "),
    "a long name": lambda form: (form.opening + '{"name": "', "a"),
    "a long key": lambda form: (form.opening + '{"', "k"),
    "many keys": lambda form: (form.opening + "{", '"k": 1, '),
    "many names": lambda form: (form.opening, '{"name": "f", "name": "g"}'),
    "long arguments": lambda form: (form.opening + '{"name": "f", "arguments": {"a": "', "xy"),
    "deep arguments": lambda form: (form.opening + '{"name": "f", "arguments": {"a": ', "["),
    "arguments without a name": lambda form: (form.opening + '{"arguments": {"a": "', "x"),
    "a string of arguments": lambda form: (form.opening + '{"name": "f", "arguments": "', r"\n"),
    "backslashes": lambda form: (form.opening + '{"name": "f", "arguments": {"', "\\"),
    "whole calls": lambda form: (
        form.opening,
        '{"name": "f", "arguments": {}}' + form.closing + form.separators[-1:] + form.opening,
    ),
    "calls cut off": lambda form: (form.opening, '{"name": "f", "arguments": {'),
    "half calls": lambda form: ("", form.opening + '{"name": '),
    "separators": lambda form: (form.opening, form.separators or "\n"),
    "closings": lambda form: (form.opening, form.closing or "]"),
}


class Tally:
    def __init__(self) -> None:
        self.num_characters = 0


class Counted(str):
    """A text whose operations, and whose parts', are counted. A comparison or a search counts as
    the text it may read, a copy as what is copied."""

    tally: Tally

    @classmethod
    def of(cls, text: str, tally: Tally) -> "Counted":
        counted = cls(text)
        counted.tally = tally
        return counted

    def _part(self, text: str) -> "Counted":
        self.tally.num_characters += len(text)
        return Counted.of(text, self.tally)

    def _read(self, num_characters: int) -> None:
        self.tally.num_characters += num_characters

    def __getitem__(self, key: SupportsIndex | slice) -> "Counted":
        return self._part(super().__getitem__(key))

    def __add__(self, other: str) -> "Counted":
        return self._part(super().__add__(other))

    def __radd__(self, other: str) -> "Counted":
        return self._part(str(other) + str(self))

    def __iter__(self) -> Iterator[str]:
        self._read(len(self))
        return super().__iter__()

    def __contains__(self, part: object) -> bool:
        self._read(len(self))
        return super().__contains__(part)  # type: ignore[operator]

    def find(self, part: str, *place: Any) -> int:
        found = super().find(part, *place)
        start = int(place[0]) if place else 0
        self._read((len(self) if found < 0 else found + len(part)) - start)
        return found

    def startswith(self, prefix: str | tuple[str, ...], *place: Any) -> bool:
        self._read(len(prefix))
        return super().startswith(prefix, *place)

    def strip(self, chars: str | None = None, /) -> "Counted":
        return self._stripped(super().strip(chars))

    def lstrip(self, chars: str | None = None, /) -> "Counted":
        return self._stripped(super().lstrip(chars))

    def rstrip(self, chars: str | None = None, /) -> "Counted":
        return self._stripped(super().rstrip(chars))

    def _stripped(self, text: str) -> "Counted":
        self._read(len(self))
        return Counted.of(text, self.tally)


def text_of(unit: tuple[str, str], length: int) -> str:
    start, again = unit
    return (start + again * (length // max(len(again), 1)))[:length]


def check_is_linear(reader: ToolReader, text: str, piece: int) -> None:
    tally = Tally()
    events: list[ToolEvent] = []
    for start in range(0, len(text), piece):
        events += reader.push(Counted.of(text[start : start + piece], tally))
    events += reader.finish()
    assert tally.num_characters <= MOST_PER_CHARACTER * len(text)
    assert len(events) <= len(text) + 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("unit", UNITS)
def test_work_is_in_proportion_to_the_text(form: str, unit: str) -> None:
    text = text_of(UNITS[unit](FORMS[form]), LENGTH)
    for piece in (PIECE, LENGTH):
        check_is_linear(CallReader(FORMS[form]), text, piece)


@pytest.mark.parametrize("form", ["hermes", "llama", "mistral"])
def test_a_megabyte_of_everything(form: str) -> None:
    """Pieces of the texts above in a random order, cut anywhere, and parts of them again."""
    rng = random.Random(form)
    units = [text_of(make(FORMS[form]), 2**10) for make in UNITS.values()]
    parts: list[str] = []
    while sum(map(len, parts)) < LONGEST:
        unit = rng.choice(units)
        parts.append(unit[rng.randrange(2**9) :][: rng.randrange(2**9)])
    check_is_linear(CallReader(FORMS[form]), "".join(parts)[:LONGEST], LONGEST)
