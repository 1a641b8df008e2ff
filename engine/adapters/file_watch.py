"""How long a thread has been waiting for a file system.

A call to one that hangs, as networked ones do, comes back after minutes or never, and nothing can
end it. So whoever makes such calls says when it begins to wait and when it hears something; the
loop, which never waits, sees how long ago that was.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class FileWatch:
    """One thread's calls, looked at by another. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waits: tuple[str, float] | None = None  # for which folder, heard of when

    @contextmanager
    def over(self, folder: str) -> Iterator[None]:
        """What is inside waits for files of `folder`."""
        self._waits = (folder, self._clock())
        try:
            yield
        finally:
            self._waits = None

    def heard(self) -> None:
        """Something came."""
        if self._waits is not None:
            self._waits = (self._waits[0], self._clock())

    def silent_folder(self, seconds: float) -> str | None:
        """The folder that nothing was heard of for so long, if there is one."""
        waits = self._waits  # once: the other thread goes on
        return waits[0] if waits is not None and self._clock() - waits[1] >= seconds else None
