"""log_injection: whatever a value holds, it is one line, and does nothing to who reads it."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from lorax_serve.engine.logging import configure_logging as of_engine
from lorax_serve.ipc.log_lines import printable
from lorax_serve.server.logging import configure_logging as of_server

Configure = Callable[[bool], None]  # is told whether lines are JSON

FORGED = [
    "org/x\n12:00:00 [error    ] forged",
    "org/x\r\n{\"event\": \"forged\", \"level\": \"error\"}",
    "\x1b[2J\x1b[31mred",
    "a\x1bb\x07",
    "\x9b31mC1",
    "del\x7f\x00nul",
    "vt\x0bff\x0cfs\x1cnel\x85ls\u2028ps\u2029",
    "\u202etxt.exe",
    "\ud800",
    "%s%n%(event)s{0}",
    "'\"\\",
]  # fmt: skip


@pytest.fixture(params=["server", "engine"])
def configure(request: pytest.FixtureRequest) -> Iterator[Configure]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    if request.param == "server":
        yield lambda as_json: of_server("info", json=as_json, colors=False)
    else:
        yield lambda as_json: of_engine("info", as_json=as_json)
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.endswith("\n")
    assert text[:-1].isprintable(), repr(text)
    return text[:-1]


@pytest.mark.parametrize("name", FORGED)
def test_log_injection_as_json(
    configure: Configure, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    configure(True)
    structlog.get_logger().error("failed", adapter=name, names=[name], **{name: "x"})
    line = one_line(capsys)
    assert line.isascii()
    said = json.loads(line)
    assert (said["event"], said["adapter"], said["names"]) == ("failed", name, [name])
    structlog.get_logger().error(name)
    assert json.loads(one_line(capsys))["event"] == name


@pytest.mark.parametrize("name", FORGED)
def test_log_injection_as_text(
    configure: Configure, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    configure(False)
    structlog.get_logger().error("failed", adapter=name, names=[name])
    assert re.match(r"\S+ \[error    \] failed ", one_line(capsys))
    structlog.get_logger().error("failed", **{name: "x"})
    structlog.get_logger().error(name)
    for line in capsys.readouterr().err.removesuffix("\n").split("\n"):
        assert line.isprintable()
        assert re.match(r"\S+ \[error    \] ", line)


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("as_json", [True, False])
def test_log_injection_by_an_exceptions_text(
    configure: Configure, capsys: pytest.CaptureFixture[str], name: str, as_json: bool
) -> None:
    configure(as_json)
    try:
        raise ValueError(name) from KeyError(name)
    except ValueError:
        structlog.get_logger().exception("crashed")
    first, *rest = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert first.isprintable()
    assert "crashed" in first
    if as_json:
        assert rest == []
        assert "ValueError: " in json.loads(first)["exception"]
    else:
        assert any("ValueError: " in line for line in rest)
        assert all(line.isprintable() and line.startswith("    ") for line in rest)


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("as_json", [True, False])
def test_log_injection_by_way_of_a_library(
    capsys: pytest.CaptureFixture[str], name: str, as_json: bool
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    of_server("info", json=as_json, colors=False)
    logging.getLogger("aiohttp.server").error("Error handling request from %s", name)
    line = one_line(capsys)
    assert not as_json or json.loads(line)["event"] == f"Error handling request from {name}"
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@given(st.text())
def test_what_can_be_printed_stays_and_the_rest_can_be_told(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert io.StringIO(shown).readlines() == ([shown] if shown else [])
    if text.isprintable():
        assert shown == text
    elif "\\" not in text:
        assert "\\" in shown
