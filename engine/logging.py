"""Structured log lines of the engine process, on standard error."""

import logging
import sys

import structlog


def configure_logging(level: str, *, as_json: bool) -> None:
    """Lines from `level` ("debug" … "critical") up: JSON, or plain text for a terminal."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
            *(_json_rendering() if as_json else _text_rendering()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _json_rendering() -> list[structlog.typing.Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _text_rendering() -> list[structlog.typing.Processor]:
    # The default would print the local variables of every frame, prompts among them.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain)]
