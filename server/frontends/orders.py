"""What a frontend process has been told so far, as events of its loop."""

import asyncio
import os
import sys
import threading
from typing import Final

from lorax_serve.server.frontends.start import Order
from lorax_serve.server.stop_signals import StopSignals

_EXIT_ORPHANED: Final = 1


class Orders:
    """For one event loop, from which it is made."""

    def __init__(self) -> None:
        self.serve = asyncio.Event()
        self.signals = StopSignals()
        self._engine_lost = asyncio.Event()

    def listen(self) -> None:
        """Obey what comes on standard input from now on; with its end, end the process."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="orders", daemon=True).start()

    async def engine_lost(self) -> str:
        """Wait until the engine has ended; words that follow "the engine"."""
        await self._engine_lost.wait()
        return "has ended"

    def _obey(self, order: Order) -> None:
        match order:
            case Order.SERVE:
                self.serve.set()
            case Order.STOP:
                self.signals.requested.set()
            case Order.INSIST:
                self.signals.requested.set()
                self.signals.insisted.set()
            case Order.LOST:
                self._engine_lost.set()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """On a thread: nothing that the loop does may keep an orphan alive."""
        # Not through sys.stdin: the interpreter takes its lock when it ends, and aborts if it
        # cannot. Its buffer is empty: orders come after the report that this process is prepared.
        unread = b""
        while data := os.read(sys.stdin.fileno(), 4096):
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                loop.call_soon_threadsafe(self._obey, Order(line.decode()))
        os._exit(_EXIT_ORPHANED)
