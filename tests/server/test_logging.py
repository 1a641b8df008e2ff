"""What reaches standard error, read back line by line."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import structlog
from aiohttp.http_exceptions import LineTooLong

from lorax_serve.engine.logging import configure_logging as configure_engine_logging
from lorax_serve.server.logging import configure_logging, say

Configure = Callable[[], None]

SECRET = "my-prompt-and-my-token"


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def frontend_logs() -> None:
    configure_logging("info", json=True, colors=False)


def engine_logs() -> None:
    configure_engine_logging("info", as_json=True)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_json_lines_have_level_time_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True, colors=False)
    structlog.get_logger().info("ready", port=80, odd='a"b\nc\x1b[31m')
    [line] = said(capsys)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert line.pop("timestamp")
    assert line == {"event": "ready", "level": "info", "port": 80, "odd": 'a"b\nc\x1b[31m'}


def test_what_is_below_the_level_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", json=True, colors=False)
    structlog.get_logger().info("no")
    structlog.get_logger().warning("yes")
    assert [line["event"] for line in said(capsys)] == ["yes"]


def test_libraries_speak_in_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", json=True, colors=False)
    logging.getLogger("some.library").warning("beware of %s", "dogs")
    logging.getLogger("some.library").info("never mind")
    [line] = said(capsys)
    assert (line["event"], line["level"]) == ("beware of dogs", "warning")


@pytest.mark.parametrize("configure", [frontend_logs, engine_logs])
def test_fault_23_a_log_that_cannot_be_written_fails_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], configure: Configure
) -> None:
    """A disk that is full, a reader that is gone, and then it is there again."""
    reader, writer = os.pipe()
    os.close(reader)
    written = sys.stderr
    full = os.open("/dev/full", os.O_WRONLY)
    for broken in (os.fdopen(full, "w"), os.fdopen(writer, "w")):
        monkeypatch.setattr(sys, "stderr", broken)
        configure()
        for _ in range(3):
            structlog.get_logger().error("lost", text="x" * 100_000)
            say("lost, too\n" * 10_000)
        with suppress(OSError):
            broken.close()
        structlog.get_logger().error("nor does a closed one")
    monkeypatch.setattr(sys, "stderr", written)
    configure()
    structlog.get_logger().info("ready")
    assert [line["event"] for line in said(capsys)] == ["ready"]


def test_loggers_made_before_the_configuration_follow_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    early = structlog.get_logger("early")
    configure_logging("info", json=True, colors=False)
    early.info("heard")
    assert [line["event"] for line in said(capsys)] == ["heard"]


@pytest.mark.parametrize("as_json", [True, False])
def test_tracebacks_show_no_local_variables(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    configure_logging("info", json=as_json, colors=False)
    prompt = "".join(reversed(SECRET))
    try:
        len(prompt) / 0
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed too")
    text = capsys.readouterr().err
    assert text.count("ZeroDivisionError: ") == 2
    assert prompt not in text


def test_bytes_of_unreadable_requests_are_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True, colors=False)
    try:
        raise LineTooLong(f"Authorization: Bearer {SECRET}".encode(), 8190)
    except LineTooLong:
        logging.getLogger("aiohttp.server").exception(
            "Error handling request from %s", "127.0.0.1", exc_info=sys.exc_info()
        )
    text = capsys.readouterr().err
    assert "LineTooLong" in text
    assert SECRET not in text


def test_text_has_colors_only_when_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    for colors in (True, False):
        configure_logging("info", json=False, colors=colors)
        structlog.get_logger().info("hello", port=80)
        text = capsys.readouterr().err
        assert ("\x1b[" in text) is colors
        assert "hello" in text
        assert text.count("\n") == 1
