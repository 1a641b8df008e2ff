"""When each step of the stub engine was sent, for whoever reads what became of it.

A step gives every stream the same token, whose text is the step's number modulo NUM_TICKS; the
time lies at that place of a file that both map. `time.monotonic` is one clock for all processes of
a host.
"""

import mmap
import struct
import time
from pathlib import Path
from types import TracebackType

NUM_TICKS = 8192
FIRST_ID = 1024  # of the ids whose texts are numbers
_TIME = struct.Struct("d")


def tick_text(number: int) -> str:
    return f" w{number:04d}"


class Ticks:
    """The times of the last NUM_TICKS steps, shared."""

    def __init__(self, path: Path) -> None:
        """Makes the file if it is not there."""
        with path.open("a+b") as file:
            file.truncate(NUM_TICKS * _TIME.size)
            self._map = mmap.mmap(file.fileno(), 0)

    def __enter__(self) -> "Ticks":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._map.close()

    def stamp(self, number: int) -> None:
        _TIME.pack_into(self._map, number * _TIME.size, time.monotonic())

    def time_of(self, number: int) -> float:
        (at,) = _TIME.unpack_from(self._map, number * _TIME.size)
        return float(at)
