"""How sequences end: by a token, an abort, a refusal or a failure, and what they give back."""

import pytest

from engine_harness import PROMPT, Harness, each_way, expected_tokens, request
from fake_runner import FakeSampledStep, FakeStep
from lorax_serve.ipc.types import ErrorCode, FinishReason

pytestmark = each_way


def test_eos_and_stop_tokens_end_a_sequence_and_eos_outranks_length(overlaps: bool) -> None:
    tokens = expected_tokens(PROMPT, 3)
    harness = Harness(overlaps=overlaps, eos_token_ids=(tokens[2],))
    harness.generate(request("eos", PROMPT, max_new_tokens=3))
    harness.generate(request("stop", PROMPT, stop_token_ids=(tokens[1],)))
    harness.generate(request("ignore", PROMPT, max_new_tokens=5, ignore_eos=True))
    harness.run_until_idle()
    reasons = {name: harness.terminal_events(name)[0].finish_reason for name in ("eos", "stop")}
    assert reasons == {"eos": FinishReason.EOS, "stop": FinishReason.STOP_TOKEN}
    assert harness.tokens("stop") == tokens[:2]
    assert harness.tokens("ignore") == expected_tokens(PROMPT, 5)


def test_an_abort_frees_everything_within_one_step(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    harness.generate(request("r", PROMPT, adapter="a", max_new_tokens=50))
    for _ in range(6):
        harness.step()
    assert harness.allocator.num_used > 0
    harness.abort("r")
    harness.step()
    assert harness.allocator.num_used == 0
    assert all(slot.num_pins == 0 for slot in harness.adapters.resident.values())
    assert harness.terminal_events("r") == []


def test_a_frontend_that_is_gone_takes_its_sequences_along(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    for name in ("a", "b"):
        harness.generate(request(name, PROMPT, max_new_tokens=50))
    harness.link.reachable = False
    harness.step()
    harness.step()  # overlapped, the first step's tokens are known by now
    assert harness.scheduler.num_running == harness.scheduler.num_waiting == 0
    assert harness.allocator.num_used == 0


def test_refused_requests_say_why(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, num_blocks=4)
    harness.generate(request("empty", []))
    harness.generate(request("unknown token", [1000]))
    harness.generate(request("long", PROMPT, max_new_tokens=7))
    harness.run_until_idle()
    codes = [event.code for event in harness.link.events]
    assert codes == [
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ]


def test_a_step_that_raises_fails_only_the_request_to_blame(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    healthy_launch = harness.runner.launch

    def launch(step):  # type: ignore[no-untyped-def]
        if any(66 in item.token_ids for item in step.scheduled):
            raise RuntimeError("poison")
        return healthy_launch(step)

    harness.runner.launch = launch
    harness.generate(request("poison", [66, 1, 2]))
    for name in ("a", "b", "c"):
        harness.generate(request(name, [len(name), *PROMPT]))
    harness.run_until_idle()
    (end,) = harness.terminal_events("poison")
    assert end.code is ErrorCode.GENERATION_ERROR
    for name in ("a", "b", "c"):
        assert harness.tokens(name) == expected_tokens([len(name), *PROMPT], 4)
    assert harness.allocator.num_used == 0


def test_sampling_that_raises_fails_only_the_request_to_blame(
    overlaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy_sample = FakeStep.sample

    def sample(step: FakeStep) -> FakeSampledStep:
        if any(item.sequence.id.request_id == "poison" for item in step.step.sampling):
            raise RuntimeError("poison")
        return healthy_sample(step)

    monkeypatch.setattr(FakeStep, "sample", sample)
    harness = Harness(overlaps=overlaps)
    harness.generate(request("a", [1, *PROMPT], max_new_tokens=9))
    for _ in range(3):
        harness.step()
    harness.generate(request("poison", [66, 1, 2]))
    harness.generate(request("b", [2, *PROMPT]))
    harness.run_until_idle()
    (end,) = harness.terminal_events("poison")
    assert end.code is ErrorCode.GENERATION_ERROR
    assert harness.tokens("a") == expected_tokens([1, *PROMPT], 9)
    assert harness.tokens("b") == expected_tokens([2, *PROMPT], 4)
    assert harness.allocator.num_used == 0


def test_blocks_of_a_row_without_numbers_are_offered_to_nobody(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    harness.runner.broken = frozenset({"broken"})
    harness.generate(request("broken", PROMPT))
    harness.run_until_idle()
    (end,) = harness.terminal_events("broken")
    assert end.code is ErrorCode.GENERATION_ERROR
    harness.generate(request("next", PROMPT))
    harness.run_until_idle()
    (first,) = [event.prompt for event in harness.link.events if getattr(event, "prompt", None)]
    assert first.num_cached_tokens == 0
    assert harness.tokens("next") == expected_tokens(PROMPT, 4)
