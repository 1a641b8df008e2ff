"""Long lists as JSON, made so that other threads get their turns.

The encoder holds the interpreter lock from its first byte to its last, and so does a list that is
freed with all its items: a list of a prompt's tokens, whole, would stop the event loop for a tenth
of a second from whichever thread.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

import msgspec
from msgspec import Raw

T = TypeVar("T")

_ITEMS_AT_ONCE: Final = 1024  # some hundred microseconds


def json_list(items: Iterable[object]) -> bytes:
    """`items` as `msgspec.json.encode` writes a list. Only some of what an iterator makes are
    there at a time.
    """
    written = JsonList()
    for some in slices(items):
        written.extend(some)
    return written.json()


class JsonList:
    """A list that is written as its items come."""

    def __init__(self) -> None:
        self._parts = [b"["]

    def extend(self, items: list[T]) -> None:
        if items:
            if len(self._parts) > 1:
                self._parts.append(b",")
            self._parts.append(msgspec.json.encode(items)[1:-1])

    def json(self) -> bytes:
        return b"".join((*self._parts, b"]"))

    def raw(self) -> Raw:
        """To stand in a struct that is encoded."""
        return Raw(self.json())


def slices(items: Iterable[T]) -> Iterator[list[T]]:
    """As many at a time as are encoded in no time that matters, all of the same number."""
    iterator = iter(items)
    while some := list(islice(iterator, _ITEMS_AT_ONCE)):
        yield some
