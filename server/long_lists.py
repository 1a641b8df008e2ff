"""Long lists as JSON, made so that other threads get their turns.

The encoder holds the interpreter lock from its first byte to its last: a list of a prompt's tokens,
whole, would stop the event loop for a tenth of a second from whichever thread.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw

_ITEMS_AT_ONCE: Final = 1024  # some hundred microseconds


def json_list(items: Sequence[object]) -> Raw:
    """`items` as `msgspec.json.encode` writes them, to stand in a struct that is encoded."""
    slices = (
        msgspec.json.encode(items[start : start + _ITEMS_AT_ONCE])[1:-1]
        for start in range(0, len(items), _ITEMS_AT_ONCE)
    )
    return Raw(b"[" + b",".join(slices) + b"]")
