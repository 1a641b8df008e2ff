"""The scheduler, through the loop, with a fake model that checks every KV slot it reads."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_harness import BLOCK_SIZE, FakeAdapters, Harness, expected_tokens, request
from fake_runner import FakeSampledStep, FakeStep
from lorax_serve.ipc.messages import RequestFailed
from lorax_serve.ipc.types import ErrorCode, FinishReason

PROMPT = list(range(10))

pytestmark = pytest.mark.parametrize("overlaps", [False, True], ids=["at_once", "overlapped"])


def test_a_lone_request_gets_its_tokens_and_one_end(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    harness.generate(request("r", PROMPT, max_new_tokens=5))
    harness.run_until_idle()
    assert harness.tokens("r") == expected_tokens(PROMPT, 5)
    (end,) = harness.terminal_events("r")
    assert end.finish_reason is FinishReason.LENGTH


def test_a_long_prompt_is_computed_in_chunks_beside_decodes(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, max_batch_tokens=8)
    harness.generate(request("short", [1, 2], max_new_tokens=12))
    harness.step()
    harness.generate(request("long", list(range(40)), max_new_tokens=2))
    harness.run_until_idle()
    assert harness.tokens("short") == expected_tokens([1, 2], 12)
    assert harness.tokens("long") == expected_tokens(list(range(40)), 2)
    assert max(step.num_tokens for step in harness.runner.steps) <= 8
    mixed = [step for step in harness.runner.steps if len(step.scheduled) == 2]
    assert len(mixed) >= 40 // 8


def test_long_prompts_of_one_tenant_do_not_keep_anothers_short_one_waiting(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, max_batch_tokens=64, num_blocks=500)
    for index in range(4):
        prompt = [index] * 300
        harness.generate(request(f"long {index}", prompt, max_new_tokens=1, tenant="long"))
    harness.step()
    harness.generate(request("short", [1, 2, 3, 4, 5], max_new_tokens=1, tenant="short"))
    first = len(harness.runner.steps)
    harness.run_until_idle()
    steps = harness.runner.steps
    ends = {
        item.sequence.id.request_id: number
        for number, step in enumerate(steps)
        for item in step.sampling
    }
    assert ends["short"] <= first + overlaps
    assert [ends[f"long {index}"] for index in range(4)] == sorted(
        ends[f"long {index}"] for index in range(4)
    )
    assert all(step.num_tokens == 64 for step in steps[: 1200 // 64]), "nothing is left unused"
    assert ends["long 0"] <= 1 + 300 // 48, "the oldest is given what is not shared"


def test_the_first_token_says_how_much_of_the_prompt_was_cached(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    harness.generate(request("first", PROMPT))
    harness.run_until_idle()
    harness.generate(request("second", PROMPT))
    harness.run_until_idle()
    firsts = [event.prompt for event in harness.link.events if event.prompt is not None]
    assert [stats.num_cached_tokens for stats in firsts] == [0, len(PROMPT) // BLOCK_SIZE * 4]
    assert harness.tokens("second") == harness.tokens("first")


def test_generated_blocks_are_found_in_the_next_turn(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    harness.generate(request("turn 1", PROMPT, max_new_tokens=11))
    harness.run_until_idle()
    conversation = PROMPT + harness.tokens("turn 1") + [5, 6, 7]
    harness.generate(request("turn 2", conversation))
    harness.run_until_idle()
    # The last generated token was never computed, so 20 of the 21 known tokens fill 5 blocks.
    assert harness.link.events[-4].prompt.num_cached_tokens == 20


def test_prefixes_are_not_shared_between_adapters_or_salts(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    salted = request("salted", PROMPT)
    for message in (
        request("base", PROMPT),
        request("adapted", PROMPT, adapter="a"),
        type(salted)(**{**_fields(salted), "cache_salt": "tenant"}),
    ):
        harness.generate(message)
        harness.run_until_idle()
    firsts = [event.prompt for event in harness.link.events if event.prompt is not None]
    assert [stats.num_cached_tokens for stats in firsts] == [0, 0, 0]


def test_the_youngest_is_preempted_when_blocks_run_out_and_resumes(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, num_blocks=8, max_batch_tokens=64)
    for name in ("old", "young"):
        harness.generate(request(name, [len(name)] * 8, max_new_tokens=20))
    harness.run_until_idle()
    for name in ("old", "young"):
        assert harness.tokens(name) == expected_tokens([len(name)] * 8, 20)
    order = [event.request_id for event in harness.link.events if event.finish_reason]
    assert order == ["old", "young"]


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


REQUESTS = st.lists(
    st.fixed_dictionaries(
        {
            "arrival": st.integers(0, 30),
            "prompt": st.lists(st.integers(0, 3), min_size=1, max_size=24),
            "num_new": st.integers(1, 20),
            "adapter": st.sampled_from([None, "a", "b", "c", "bad"]),
            "abort_at": st.none() | st.integers(0, 60),
        }
    ),
    min_size=1,
    max_size=12,
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    requests=REQUESTS,
    num_blocks=st.integers(11, 40),
    max_num_sequences=st.integers(1, 6),
    max_batch_tokens=st.integers(6, 32),
    prefix_cache=st.booleans(),
    capacity=st.integers(1, 3),
)
def test_any_traffic_gives_each_request_its_solo_tokens_and_one_end(  # type: ignore[no-untyped-def]
    overlaps, requests, num_blocks, max_num_sequences, max_batch_tokens, prefix_cache, capacity
) -> None:
    adapters = FakeAdapters(capacity=capacity, delay=3, broken=frozenset({"bad"}))
    harness = Harness(
        overlaps=overlaps,
        num_blocks=num_blocks,
        max_num_sequences=max_num_sequences,
        max_batch_tokens=max_batch_tokens,
        prefix_cache=prefix_cache,
        adapters=adapters,
    )
    for now in range(61):
        for name, each in enumerate(requests):
            if each["arrival"] == now:
                harness.generate(
                    request(
                        str(name),
                        each["prompt"],
                        max_new_tokens=each["num_new"],
                        adapter=each["adapter"],
                    )
                )
            if each["abort_at"] == now and now > each["arrival"]:
                harness.abort(str(name))
        harness.step()
        harness.scheduler.check_integrity()
    harness.run_until_idle()
    assert harness.allocator.num_used == 0
    assert all(slot.num_pins == 0 for slot in adapters.resident.values())
    assert adapters.loading == {}, "an adapter is kept for nobody"
    for name, each in enumerate(requests):
        tokens = harness.tokens(str(name))
        ends = harness.terminal_events(str(name))
        if each["adapter"] == "bad":
            expected = []
        else:
            expected = expected_tokens(each["prompt"], each["num_new"], each["adapter"])
        if each["abort_at"] is not None and each["abort_at"] > each["arrival"] and not ends:
            assert tokens == expected[: len(tokens)]
        else:
            assert tokens == expected
            assert len(ends) == 1


def _fields(message):  # type: ignore[no-untyped-def]
    return {name: getattr(message, name) for name in message.__struct_fields__}
