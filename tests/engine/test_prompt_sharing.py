"""Branches of one prompt: it is computed once, whatever becomes of the branch that computes it."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_harness import BLOCK_SIZE, FakeAdapters, Harness, each_way, expected_tokens, request
from lorax_serve.ipc.messages import Generate, RequestFailed, TokensGenerated
from lorax_serve.ipc.types import RequestId

PROMPT = list(range(42))
NUM_TOKENS = 4


def branches(
    name: str, number: int, prompt: list[int] = PROMPT, adapter: str | None = None
) -> list[Generate]:
    """One that computes the prompt and others that wait for it."""
    made = [
        request(f"{name}{i}", prompt, max_new_tokens=NUM_TOKENS, adapter=adapter)
        for i in range(number)
    ]
    leader = made[0].request_id
    return [made[0], *(msgspec.structs.replace(each, after=leader) for each in made[1:])]


def num_prompt_tokens_computed(harness: Harness, length: int) -> int:
    items = [item for step in harness.runner.steps for item in step.scheduled]
    return sum(max(min(item.start + item.num_tokens, length) - item.start, 0) for item in items)


@each_way
@pytest.mark.parametrize("adapter", [None, "a"])
def test_the_prompt_is_computed_once(overlaps: bool, adapter: str | None) -> None:
    """But for what does not fill a block: the last tokens, of which one must be computed anyway."""
    harness = Harness(overlaps=overlaps)
    for message in branches("r", 4, adapter=adapter):
        harness.generate(message)
    harness.run_until_idle()
    rest = len(PROMPT) % BLOCK_SIZE
    assert num_prompt_tokens_computed(harness, len(PROMPT)) == len(PROMPT) + 3 * rest
    for index in range(4):
        assert harness.tokens(f"r{index}") == expected_tokens(PROMPT, NUM_TOKENS, adapter)
        assert len(harness.terminal_events(f"r{index}")) == 1
    harness.scheduler.check_integrity()


@each_way
def test_branches_hold_the_prompt_s_blocks_together(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps)
    for message in branches("r", 4):
        harness.generate(message)
    most = 0
    while harness.step():
        most = max(most, harness.allocator.num_used)
    num_full = len(PROMPT) // BLOCK_SIZE
    num_own = -(-(len(PROMPT) + NUM_TOKENS) // BLOCK_SIZE) - num_full
    assert most <= num_full + 4 * num_own
    assert harness.allocator.num_used == 0


@each_way
def test_others_are_not_kept_waiting_with_the_followers(overlaps: bool) -> None:
    """A short request that comes later ends with the leader's last chunk, before any follower."""
    harness = Harness(overlaps=overlaps, max_num_sequences=3)
    for message in branches("long", 3, prompt=[*PROMPT, *PROMPT[:20]]):
        harness.generate(message)
    harness.generate(request("short", [1, 2], max_new_tokens=1))
    harness.run_until_idle()
    order = [event.request_id for event in harness.link.events]
    assert set(order[:2]) == {"long0", "short"}


@each_way
def test_a_leader_that_is_aborted_leaves_its_followers_to_themselves(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, max_batch_tokens=8)
    for message in branches("r", 3):
        harness.generate(message)
    harness.step()
    harness.abort("r0")
    harness.run_until_idle()
    assert harness.terminal_events("r0") == []
    for name in ("r1", "r2"):
        assert harness.tokens(name) == expected_tokens(PROMPT, NUM_TOKENS)


@each_way
def test_a_broken_adapter_fails_every_branch(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, adapters=FakeAdapters(broken=frozenset({"bad"})))
    for message in branches("r", 3, adapter="bad"):
        harness.generate(message)
    harness.run_until_idle()
    for index in range(3):
        (end,) = harness.terminal_events(f"r{index}")
        assert isinstance(end, RequestFailed)
    harness.scheduler.check_integrity()


@each_way
def test_a_follower_that_is_aborted_while_it_is_held_is_gone(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, max_batch_tokens=8)
    for message in branches("r", 3):
        harness.generate(message)
    harness.step()
    assert harness.scheduler.num_waiting == 2
    harness.abort("r1")
    harness.step()
    assert harness.scheduler.num_waiting == 1
    harness.run_until_idle()
    assert harness.tokens("r1") == []
    assert harness.tokens("r2") == expected_tokens(PROMPT, NUM_TOKENS)


@each_way
@pytest.mark.parametrize("leader", ["r0", "nobody"])
def test_nobody_waits_for_one_that_is_not_there_or_has_begun(overlaps: bool, leader: str) -> None:
    harness = Harness(overlaps=overlaps)
    harness.generate(request("r0", [1, 2, 3], max_new_tokens=40))
    for _ in range(4):
        harness.step()
    late = request("late", [1, 2, 3], max_new_tokens=2)
    harness.generate(msgspec.structs.replace(late, after=RequestId(leader)))
    for _ in range(5):
        harness.step()
    assert harness.tokens("late") == expected_tokens([1, 2, 3], 2)


def test_a_frontend_that_is_gone_takes_its_followers_along() -> None:
    harness = Harness(max_batch_tokens=8)
    for message in branches("r", 5):
        harness.generate(message)
    harness.step()
    assert harness.scheduler.remove_all_of(b"frontend") == 5
    assert harness.scheduler.num_waiting == 0
    assert harness.scheduler.num_running == 0
    harness.scheduler.check_integrity()


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    groups=st.lists(
        st.tuples(
            st.integers(0, 6),  # arrival
            st.integers(1, 5),  # branches
            st.integers(1, 50),  # prompt tokens
            st.sampled_from([None, "a", "b", "c"]),
            st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), max_size=3),  # aborts
        ),
        min_size=1,
        max_size=4,
    ),
    overlaps=st.booleans(),
    num_blocks=st.integers(16, 40),
    prefix_cache=st.booleans(),
)
def test_any_traffic_of_branches_ends_with_one_event_each(
    groups: list[tuple[int, int, int, str | None, list[tuple[int, int]]]],
    overlaps: bool,
    num_blocks: int,
    prefix_cache: bool,
) -> None:
    harness = Harness(
        overlaps=overlaps,
        num_blocks=num_blocks,
        max_num_sequences=4,
        prefix_cache=prefix_cache,
        adapters=FakeAdapters(broken=frozenset({"c"})),
    )
    aborted = set()
    for now in range(60):
        for index, (arrival, number, length, adapter, aborts) in enumerate(groups):
            if arrival == now:
                for message in branches(f"{index}-", number, [index] * length, adapter):
                    harness.generate(message)
            for branch, moment in aborts:
                if arrival + moment == now and branch < number:
                    aborted.add(f"{index}-{branch}")
                    harness.abort(f"{index}-{branch}")
        harness.step()
    harness.run_until_idle()
    harness.scheduler.check_integrity()
    assert harness.allocator.num_used == 0
    for index, (_, number, length, adapter, _) in enumerate(groups):
        for branch in range(number):
            name = f"{index}-{branch}"
            ends = harness.terminal_events(name)
            expected = expected_tokens([index] * length, NUM_TOKENS, adapter)
            if adapter == "c":
                assert len(ends) == 1 or name in aborted
            elif ends:
                assert harness.tokens(name) == expected
            else:
                assert name in aborted
            assert len(ends) <= 1


# -- logprobs of the prompt


def scored(name: str, prompt: list[int]) -> Generate:
    return msgspec.structs.replace(request(name, prompt), num_prompt_logprobs=0)


def told(harness: Harness, name: str) -> list[float]:
    return [
        entry.logprob
        for event in harness.link.events
        if isinstance(event, TokensGenerated) and event.request_id == name
        for entry in event.prompt_logprobs or ()
    ]


@each_way
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 42])
def test_every_prompt_token_but_the_first_is_scored(overlaps: bool, length: int) -> None:
    harness = Harness(overlaps=overlaps, max_batch_tokens=8)
    harness.generate(request("warm", PROMPT[:length]))
    harness.run_until_idle()
    harness.generate(scored("r", PROMPT[:length]))  # nothing of it is taken from the prefix cache
    harness.run_until_idle()
    assert told(harness, "r") == [-float(token) for token in PROMPT[1:length]]
    first_token = next(e for e in harness.link.events if e.request_id == "r" and e.token_ids)
    after = harness.link.events[harness.link.events.index(first_token) + 1 :]
    assert all(event.prompt_logprobs is None for event in after)
    assert harness.tokens("r") == expected_tokens(PROMPT[:length], 4)


@each_way
def test_a_preempted_prompt_is_told_once(overlaps: bool) -> None:
    """The old one grows while the young one's prompt is computed, and takes its blocks."""
    harness = Harness(overlaps=overlaps, num_blocks=16, max_batch_tokens=5)
    harness.generate(request("old", [9] * 4, max_new_tokens=40))
    for _ in range(12):
        harness.step()
    harness.generate(scored("young", PROMPT))
    harness.run_until_idle()
    starts = [
        item.start
        for step in harness.runner.steps
        for item in step.scoring
        if item.sequence.id.request_id == "young"
    ]
    assert starts.count(0) > 1, "it was meant to be preempted"
    assert told(harness, "young") == [-float(token) for token in PROMPT[1:]]
    assert harness.tokens("young") == expected_tokens(PROMPT, 4)


@each_way
def test_a_prompt_without_usable_probabilities_fails_its_request_alone(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, max_batch_tokens=8)
    harness.runner.broken = frozenset({"bad"})
    harness.generate(scored("bad", PROMPT))
    harness.generate(scored("good", PROMPT[::-1]))
    harness.run_until_idle()
    (end,) = harness.terminal_events("bad")
    assert isinstance(end, RequestFailed)
    assert told(harness, "bad") == []
    assert len(told(harness, "good")) == len(PROMPT) - 1
