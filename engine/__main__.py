"""The engine process: `python -P -m lorax_serve.engine`, its EngineConfig as a line on stdin.

Standard input stays open for as long as the frontend lives; its end is this process's end.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable

import msgspec
import structlog

from lorax_serve.engine.assembly import assemble
from lorax_serve.engine.errors import ModelRefused
from lorax_serve.engine.interpreter import prepare_interpreter
from lorax_serve.engine.logging import configure_logging
from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.link import EngineLink
from lorax_serve.ipc.messages import (
    EngineFailed,
    EngineReady,
    Hello,
    LoadProgress,
    protocol_hash,
)

log = structlog.get_logger(__name__)


def main() -> int:
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    configure_logging(config.log_level, as_json=config.log_json)
    # Ctrl-C on a terminal reaches the whole group; the frontend decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_frontend, name="frontend-watch", daemon=True).start()
    link = EngineLink(config.endpoint)
    try:
        frontend, hello = _await_hello(link)
        if hello.protocol != protocol_hash():
            link.send(frontend, EngineFailed("Frontend and engine are of different versions."))
            return 1
        return _serve(config, link, frontend)
    except Exception:
        log.exception("engine_failed")
        return 1
    finally:
        link.close()


def _serve(config: EngineConfig, link: EngineLink, frontend: bytes) -> int:
    report = _progress_report(link, frontend)
    try:
        parts = assemble(config, report=report, on_loaded=link.wake)
    except ModelRefused as error:
        link.send(frontend, EngineFailed(str(error)))
        return 1
    prepare_interpreter()
    try:
        ready = EngineReady(protocol_hash(), parts.info)
        link.send(frontend, ready)
        parts.core(link, ready).run_forever()
    finally:
        parts.exchange.close()
    return 0


def _await_hello(link: EngineLink) -> tuple[bytes, Hello]:
    """The first frontend to introduce itself gets the progress reports."""
    while True:
        for frontend, message in link.receive(None):
            if isinstance(message, Hello):
                return frontend, message


def _progress_report(link: EngineLink, frontend: bytes) -> Callable[[str, float], None]:
    def report(phase: str, fraction: float) -> None:
        link.send(frontend, LoadProgress(phase, fraction))

    return report


def _exit_with_frontend() -> None:
    """Block until standard input ends, then leave at once: nothing here needs saving."""
    # Not through sys.stdin: the interpreter takes its lock when it ends, and aborts if it cannot.
    while os.read(sys.stdin.fileno(), 4096):
        continue
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
