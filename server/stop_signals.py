"""SIGINT, SIGTERM and SIGHUP as events: the first asks for an end, the second insists."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class StopRequested(Exception):
    """A signal came while the server was starting."""


@dataclass(frozen=True)
class StopSignals:
    requested: asyncio.Event = field(default_factory=asyncio.Event)
    insisted: asyncio.Event = field(default_factory=asyncio.Event)

    def on_signal(self) -> None:
        if self.requested.is_set():
            self.insisted.set()
        self.requested.set()


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Catches the signals for as long as the block lasts. For the main thread's event loop."""
    signals = StopSignals()
    loop = asyncio.get_running_loop()
    caught = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it for a reason
        caught.append(signal.SIGHUP)
    for number in caught:
        loop.add_signal_handler(number, signals.on_signal)
    try:
        yield signals
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
