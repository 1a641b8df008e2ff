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


def json_list(items: Iterable[object]) -> Raw:
    """`items` as `msgspec.json.encode` writes a list of them, to stand in a struct that is encoded.
    Only some of what an iterator makes is there at a time.
    """
    written = JsonList()
    for some in slices(items):
        written.extend(some)
    return written.raw()


class JsonList:
    """A list that is written as its items come."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def extend(self, items: list[T]) -> None:
        if items:
            self._parts.append(msgspec.json.encode(items)[1:-1])

    def raw(self) -> Raw:
        return Raw(b"[" + b",".join(self._parts) + b"]")


def slices(items: Iterable[T]) -> Iterator[list[T]]:
    """As many at a time as are encoded in no time that matters, all of the same number."""
    iterator = iter(items)
    while some := list(islice(iterator, _ITEMS_AT_ONCE)):
        yield some
