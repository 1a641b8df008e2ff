"""A frontend process: `python -P -m lorax_serve.server.frontends`, its FrontendStart as a line on
stdin, orders in the lines that follow.

The end of standard input is the end of the process that started it, and of this one at once.
"""

import asyncio
import os
import signal
import socket
import sys
from contextlib import closing
from dataclasses import replace
from typing import Final

import msgspec

from lorax_serve.ipc.link import FrontendLink
from lorax_serve.server.app import build_app
from lorax_serve.server.config import LogLevel
from lorax_serve.server.engine_client import EngineClient
from lorax_serve.server.errors import StartError
from lorax_serve.server.frontends.orders import Orders
from lorax_serve.server.frontends.peers import Peers
from lorax_serve.server.frontends.start import FrontendStart, Report, Stage
from lorax_serve.server.handshake import handshake
from lorax_serve.server.http_server import serving
from lorax_serve.server.interpreter import prepare_interpreter
from lorax_serve.server.lifetime import serve
from lorax_serve.server.logging import configure_logging
from lorax_serve.server.service import Service
from lorax_serve.server.service_setup import ServiceSetup
from lorax_serve.server.supervisor import watch_engine
from lorax_serve.server.text.tokenizer import Tokenizer

EXIT_FAILED: Final = 1


def main() -> int:
    # The process that started this one hears the signals, and gives the orders.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    start = FrontendStart.decode(sys.stdin.buffer.readline())
    configure_logging(start.log_level, json=start.logs_json, colors=start.wants_colors)
    try:
        with closing(Tokenizer.from_folder(start.source.folder)) as tokenizer:
            setup = ServiceSetup(
                start.config,
                start.source,
                tokenizer,
                logs_requests=start.log_level == LogLevel.DEBUG.value,
            )
            asyncio.run(_live(start, setup))
    except StartError as error:
        _say(Report(Stage.FAILED, str(error)))
        return EXIT_FAILED
    return 0


async def _live(start: FrontendStart, setup: ServiceSetup) -> None:
    """Serve until told to stop, or the engine is lost. Raises StartError."""
    orders = Orders()
    orders.listen()
    with closing(FrontendLink(start.endpoint)) as link:
        client = EngineClient(link, await handshake(link, lambda progress: None))
        peers = Peers(start.folder, start.index, start.num_frontends)
        service = _service(start, setup.service(client), peers)
        app = build_app(service)
        lost = asyncio.create_task(watch_engine(orders.engine_lost, client))
        sockets = [socket.socket(fileno=number) for number in start.socket_fds]
        prepare_interpreter()
        try:
            async with peers.answering(service.desk, service.metrics):
                _say(Report(Stage.PREPARED))
                await orders.serve.wait()
                async with serving(app, sockets, shared=True) as listeners:
                    _say(Report(Stage.SERVING))
                    seconds = start.config.shutdown_timeout
                    await serve(listeners, client, lost, orders.signals, seconds)
        finally:
            lost.cancel()


def _service(start: FrontendStart, service: Service, peers: Peers) -> Service:
    """`service`, with what the frontends of a server have in common."""
    return replace(
        service,
        limits=replace(service.limits, all_concurrent_requests=start.all_concurrent_requests),
        peers=peers,
        tenant_secret=bytes.fromhex(start.tenant_secret.revealed),
        started_at=start.started_at,
    )


def _say(report: Report) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
