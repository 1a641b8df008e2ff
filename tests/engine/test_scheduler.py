"""The scheduler, through the loop, with a fake model that checks every KV slot it reads."""

from typing import Any

import msgspec
from hypothesis import given, settings

from any_traffic import ENGINES, after_traffic, is_aborted, traffic
from engine_harness import BLOCK_SIZE, PROMPT, Harness, each_way, expected_tokens, request
from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import FinishReason

pytestmark = each_way


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
    for message in (
        request("base", PROMPT),
        request("adapted", PROMPT, adapter="a"),
        msgspec.structs.replace(request("salted", PROMPT), cache_salt="tenant"),
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


@settings(derandomize=True, max_examples=300, deadline=None)
@given(requests=traffic(), engine=ENGINES)
def test_any_traffic_gives_each_request_its_solo_tokens_and_one_end(
    overlaps: bool, requests: list[dict[str, Any]], engine: dict[str, Any]
) -> None:
    def message(name: str, each: dict[str, Any]) -> Generate:
        prompt, adapter = each["prompt"], each["adapter"]
        return request(name, prompt, max_new_tokens=each["num_new"], adapter=adapter)

    harness = after_traffic(requests, message, overlaps=overlaps, **engine)
    for name, each in enumerate(requests):
        tokens = harness.tokens(str(name))
        ends = harness.terminal_events(str(name))
        if each["adapter"] == "bad":
            expected = []
        else:
            expected = expected_tokens(each["prompt"], each["num_new"], each["adapter"])
        if is_aborted(each) and not ends:
            assert tokens == expected[: len(tokens)]
        else:
            assert tokens == expected
            assert len(ends) == 1
