"""The scheduler and adapters that are not there yet: who steps aside, passes, and never starves."""

from engine_harness import PROMPT, FakeAdapters, Harness, each_way, expected_tokens, request
from lorax_serve.ipc.messages import RequestFailed
from lorax_serve.ipc.types import ErrorCode

pytestmark = each_way


def test_a_request_whose_adapter_is_loading_steps_aside(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, adapters=FakeAdapters(delay=10))
    harness.generate(request("cold", PROMPT, adapter="a"))
    harness.generate(request("base", PROMPT))
    harness.run_until_idle()
    order = [event.request_id for event in harness.link.events if event.finish_reason]
    assert order == ["base", "cold"]
    assert harness.tokens("cold") == expected_tokens(PROMPT, 4, adapter="a")


def test_only_a_lone_request_starts_before_its_adapter_has_arrived(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    harness.generate(request("first", [1, 2], adapter="a", max_new_tokens=8))
    for _ in range(5):
        harness.step()
    harness.generate(request("second", [1, 2], adapter="b"))
    harness.step()
    asked = set(harness.adapters.asked_even_arriving)
    assert asked == {("a", True), ("b", False)}
    harness.run_until_idle()
    harness.generate(request("third", [1, 2], adapter="c"))
    harness.step()
    assert harness.adapters.asked_even_arriving[-1] == ("c", True)


def test_nobody_is_asked_for_again_until_something_changes(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, adapters=FakeAdapters(capacity=1, delay=1))
    harness.generate(request("first", [1, 2], adapter="a", max_new_tokens=12))
    for _ in range(4):
        harness.step()
    harness.generate(request("second", [1, 2], adapter="b", max_new_tokens=2))
    for _ in range(3):
        harness.step()
    num_asked = len(harness.adapters.asked_even_arriving)
    for _ in range(3):
        harness.step()
    assert len(harness.adapters.asked_even_arriving) == num_asked
    harness.generate(request("third", [1, 2], max_new_tokens=2))
    harness.step()
    assert len(harness.adapters.asked_even_arriving) == num_asked + 1
    harness.run_until_idle()
    order = [event.request_id for event in harness.link.events if event.finish_reason]
    assert order == ["third", "first", "second"]


def test_a_resident_adapter_is_found_behind_any_number_that_wait(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, num_blocks=256, adapters=FakeAdapters(capacity=2, delay=1))
    for name in "ab":
        harness.generate(request(name, [1, 2], adapter=name, max_new_tokens=24))
        harness.step()
    harness.adapters.delay = 1000
    for number in range(100):
        harness.generate(request(f"{number}", [1], adapter=f"cold {number}", max_new_tokens=1))
    harness.generate(request("late", [1, 2], adapter="a", max_new_tokens=2))
    for _ in range(6):
        harness.step()
    assert [e.request_id for e in harness.link.events if e.finish_reason] == ["late"]
    asked = [name for name, _ in harness.adapters.asked_even_arriving]
    assert len({name for name in asked if name.startswith("cold")}) <= 80, "of a hundred"


def test_a_stream_of_younger_adapters_cannot_starve_the_oldest(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, adapters=FakeAdapters(capacity=1, delay=1))
    harness.generate(request("hot 0", [1], adapter="hot", max_new_tokens=6))
    harness.step()
    harness.step()
    harness.generate(request("cold", [2], adapter="cold", max_new_tokens=2))
    for number in range(1, 30):
        harness.generate(request(f"hot {number}", [3], adapter="hot", max_new_tokens=6))
        harness.step()
    harness.run_until_idle()
    order = [event.request_id for event in harness.link.events if event.finish_reason]
    assert order.index("cold") <= 2


def test_a_preempted_sequence_never_resumes_on_other_weights(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, num_blocks=8, max_batch_tokens=64)
    harness.generate(request("old", [1] * 8, max_new_tokens=20))
    harness.generate(request("young", [2] * 8, max_new_tokens=20, adapter="a"))
    while harness.scheduler.num_running < 2:
        harness.step()
    while harness.scheduler.num_running == 2:
        harness.step()
    (slot,) = harness.adapters.resident.values()
    slot.digest = "the folder was written to"
    harness.run_until_idle()
    assert harness.tokens("old") == expected_tokens([1] * 8, 20)
    (end,) = harness.terminal_events("young")
    assert isinstance(end, RequestFailed)
    assert slot.num_pins == 0


def test_a_broken_adapter_fails_all_its_requests_and_nobody_else(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, adapters=FakeAdapters(broken=frozenset({"bad"})))
    for name in ("one", "two"):
        harness.generate(request(name, PROMPT, adapter="bad"))
    harness.generate(request("good", PROMPT, adapter="good"))
    harness.run_until_idle()
    for name in ("one", "two"):
        (end,) = harness.terminal_events(name)
        assert isinstance(end, RequestFailed)
        assert end.code is ErrorCode.ADAPTER_CORRUPT
    assert harness.tokens("good") == expected_tokens(PROMPT, 4, adapter="good")
