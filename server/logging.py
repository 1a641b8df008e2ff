"""Log lines on standard error: text for people, JSON for machines. Never a prompt, never an output.

Our own lines are structlog events. What libraries say through `logging` comes out in the same form.
"""

import logging
import sys
from contextlib import suppress
from typing import Final

import structlog
from aiohttp.http_exceptions import HttpProcessingError

from lorax_serve.ipc.log_lines import LineWriter, json_rendering, text_rendering

_LIBRARY_LEVEL: Final = logging.WARNING  # of what others log


def configure_logging(level: str, *, json: bool, colors: bool) -> None:
    """Lines of `level` ("debug" … "error") and above. Called once, at start."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S", utc=json),
    ]
    rendering = json_rendering() if json else text_rendering(colors=colors)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=LineWriter(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _configure_libraries(shared, rendering)


def say(text: str) -> None:
    """For people, on standard error; lost where that cannot be written."""
    with suppress(OSError):
        sys.stderr.write(text)


def _configure_libraries(
    shared: list[structlog.typing.Processor], rendering: list[structlog.typing.Processor]
) -> None:
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    output.addFilter(_drop_request_bytes)
    logging.basicConfig(level=_LIBRARY_LEVEL, handlers=[output], force=True)


def _drop_request_bytes(record: logging.LogRecord) -> bool:
    """aiohttp quotes what it could not parse, which may be the start of an Authorization header."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = "Unreadable HTTP request (%s).", (type(error).__name__,)
        record.exc_info = None
    return True
