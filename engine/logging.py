"""Structured log lines of the engine process, on standard error."""

import logging
import sys

import structlog

from lorax_serve.ipc.log_lines import LineWriter, json_rendering, text_rendering


def configure_logging(level: str, *, as_json: bool) -> None:
    """Lines from `level` ("debug" … "critical") up: JSON, or plain text for a terminal."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
            *(json_rendering() if as_json else text_rendering(colors=False)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=LineWriter(sys.stderr),
        cache_logger_on_first_use=True,
    )
