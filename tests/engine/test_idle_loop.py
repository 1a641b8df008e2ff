"""How long the loop sleeps when it has nothing to compute."""

from typing import NoReturn

import pytest

from engine_harness import FakeAdapters, Harness, request
from lorax_serve.ipc.messages import ToEngine


class Enough(Exception):
    """The loop has been watched for long enough."""


def timeouts(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long the loop would have slept, each time that it was ready to."""
    asked: list[float | None] = []
    receive = harness.link.receive

    def watched(timeout_seconds: float | None) -> list[tuple[bytes, ToEngine]]:
        asked.append(timeout_seconds)
        if len(asked) == 20:
            enough()
        return receive(timeout_seconds)

    def enough() -> NoReturn:
        raise Enough

    monkeypatch.setattr(harness.link, "receive", watched)
    with pytest.raises(Enough):
        harness.core.run_forever()
    return asked


def test_with_nothing_to_do_it_sleeps_until_it_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness()
    harness.generate(request("r", [1, 2], max_new_tokens=3))
    assert timeouts(harness, monkeypatch)[-1] is None


def test_while_adapters_load_it_looks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that hangs wakes nobody."""
    harness = Harness(adapters=FakeAdapters(delay=1000))
    harness.generate(request("r", [1, 2], adapter="a"))
    slept = timeouts(harness, monkeypatch)[1:]
    assert all(seconds is not None and 0 < seconds <= 5 for seconds in slept), slept
