"""When the loop does not need the interpreter, so that other threads may.

Loader threads work in Python for three or four milliseconds an adapter, in pieces between long
calls that leave the interpreter to others. Where such a piece meets the loop at work, the loop
loses more than the piece takes: each time it calls the device it gives the interpreter away, and
has to wait to have it back. A few threads at once cost a step of 10 ms as much again. But for most
of a step the loop waits for the device; the pieces fit in there.
"""

import threading

_LONGEST_SECONDS = 0.05


class Lull:
    """Begins when the loop starts to wait, ends when it goes on. Open at first."""

    def __init__(self, longest_seconds: float = _LONGEST_SECONDS) -> None:
        """`longest_seconds`: that a thread waits, lest a loop that never does hold it up."""
        self._longest_seconds = longest_seconds
        self._open = threading.Event()
        self._open.set()

    @property
    def is_on(self) -> bool:
        """Whether the loop waits."""
        return self._open.is_set()

    def begin(self) -> None:
        """The loop waits from here on. Threads in `wait` go on, even if it ends at once."""
        self._open.set()

    def end(self) -> None:
        """The loop works from here on."""
        self._open.clear()

    def wait(self) -> None:
        """On another thread, before a piece of work in Python: wait for the lull."""
        self._open.wait(self._longest_seconds)


def no_pause() -> None:
    """In the place of `Lull.wait`, where threads need not make way for the loop."""
