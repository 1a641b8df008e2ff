"""Loader threads work while the loop waits, and nothing holds them up for ever."""

import threading
from collections import Counter

import pytest

from engine_harness import Harness, request
from fake_runner import FakeRunner, FakeSampledStep, FakeStep
from lorax_serve.engine.lull import Lull
from lorax_serve.engine.step import Step, StepOutput


def test_a_thread_waits_until_the_loop_does() -> None:
    lull = Lull(longest_seconds=60)
    lull.wait()  # open at first
    lull.end()
    passed = threading.Event()
    thread = threading.Thread(target=lambda: (lull.wait(), passed.set()))
    thread.start()
    assert not passed.wait(0.05)
    lull.begin()
    assert passed.wait(30)
    thread.join()


def test_a_lull_that_ends_at_once_lets_go_whoever_waited() -> None:
    lull = Lull(longest_seconds=60)
    lull.end()
    threads = [threading.Thread(target=lull.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        lull.begin()
        lull.end()


def test_a_loop_that_never_waits_holds_nobody_up_for_ever() -> None:
    lull = Lull(longest_seconds=0.001)
    lull.end()
    lull.wait()
    assert not lull.is_on


def test_the_loop_is_at_work_but_while_it_waits_for_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = Harness(overlaps=True)
    seen: Counter[tuple[str, bool]] = Counter()
    launch, output = FakeRunner.launch, FakeSampledStep.output

    def recording_launch(runner: FakeRunner, step: Step) -> FakeStep:
        seen["launch", harness.lull.is_on] += 1
        return launch(runner, step)

    def recording_output(sampled: FakeSampledStep) -> StepOutput:
        seen["output", harness.lull.is_on] += 1
        return output(sampled)

    monkeypatch.setattr(FakeRunner, "launch", recording_launch)
    monkeypatch.setattr(FakeSampledStep, "output", recording_output)
    harness.generate(request("a", [1, 2, 3], max_new_tokens=5))
    harness.run_until_idle()
    assert seen == {("launch", False): 5, ("output", True): 5}
    assert harness.lull.is_on, "the loop sleeps"


def test_the_lull_goes_on_when_a_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness()

    def fail() -> None:
        raise ValueError("the loop's end")

    monkeypatch.setattr(harness.scheduler, "schedule", fail)
    with pytest.raises(ValueError, match="end"):
        harness.step()
    assert harness.lull.is_on
