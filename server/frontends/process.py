"""A frontend as a child process, of several that share the port."""

import asyncio
import subprocess
import sys
from typing import Final

import msgspec

from lorax_serve.server.child_process import ChildProcess
from lorax_serve.server.config import Environment
from lorax_serve.server.errors import StartError
from lorax_serve.server.frontends.start import FrontendStart, Order, Report, Stage

_COMMAND: Final = (sys.executable, "-P", "-m", "lorax_serve.server.frontends")


class FrontendProcess(ChildProcess):
    """A running frontend. Whoever makes one must `stop` it, on the same event loop."""

    def __init__(self, start: FrontendStart, environment: Environment) -> None:
        """Raises StartError when the system cannot start it."""
        super().__init__(
            "frontend",
            start.encode(),
            environment.variables,
            _COMMAND,
            pass_fds=start.socket_fds,
            stdout=subprocess.PIPE,
        )
        self._reports = asyncio.StreamReader()
        self._transport: asyncio.ReadTransport | None = None

    async def reached(self, stage: Stage) -> None:
        """Wait until it says that it has. Raises StartError when it fails or ends before."""
        if self._transport is None:
            self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(self._reports), self.stdout
            )
        line = await self._reports.readline()
        if not line:
            ended = await self.wait()
            raise StartError(f"A frontend process {ended} while starting; see its lines above.")
        report = msgspec.json.decode(line, type=Report)
        if report.stage is Stage.FAILED:
            raise StartError(report.message)
        assert report.stage is stage, "it says one after the other"

    def tell(self, order: Order) -> None:
        self.send(order.value.encode())

    async def stop(self, insisted: asyncio.Event) -> None:
        try:
            await super().stop(insisted)
        finally:
            if self._transport is None:
                self.stdout.close()
            else:
                self._transport.close()
