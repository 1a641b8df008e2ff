"""Places in a step move from tenants that were served much to others: how long those wait, in
steps, that nothing is computed twice for it, and that a tenant gives no more than its excess."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from engine_harness import (
    BLOCK_SIZE,
    FakeAdapters,
    Harness,
    adapter_ref,
    expected_tokens,
    request,
)
from lorax_serve.engine.fair_queue import FairQueue
from lorax_serve.engine.place_shares import PlaceShares
from lorax_serve.engine.places import Places

each_way = pytest.mark.parametrize("overlaps", [False, True], ids=["at_once", "overlapped"])


def send(
    harness: Harness,
    tenant: str,
    name: str,
    *,
    prompt: tuple[int, ...] = (1, 2),
    num_new: int = 16,
    adapter: str | None = None,
) -> None:
    message = request(name, list(prompt), max_new_tokens=num_new, adapter=adapter)
    harness.generate(structs.replace(message, tenant=tenant))


def num_computed(harness: Harness) -> int:
    return sum(step.num_tokens for step in harness.runner.steps)


def running(harness: Harness) -> Counter[str]:
    """Tenants of the last step's sequences."""
    return Counter(item.sequence.tenant for item in harness.runner.steps[-1].scheduled)


@each_way
@pytest.mark.parametrize("prefix_cache", [False, True], ids=["no_cache", "cache"])
def test_a_place_moves_and_nothing_is_computed_twice(overlaps: bool, prefix_cache: bool) -> None:
    harness = Harness(overlaps=overlaps, prefix_cache=prefix_cache, max_num_sequences=2)
    for name in ("a", "b"):
        send(harness, "busy", name, prompt=(3, len(name)), num_new=30)
    for _ in range(10):
        harness.step()
    send(harness, "quiet", "q", num_new=5)
    harness.step()
    assert running(harness) == {"busy": 1, "quiet": 1}
    harness.run_until_idle()
    assert harness.tokens("q") == expected_tokens([1, 2], 5)
    for name in ("a", "b"):
        assert harness.tokens(name) == expected_tokens([3, 1], 30)
    ends = [event.request_id for event in harness.link.events if event.finish_reason]
    assert ends == ["q", "a", "b"], "the youngest gives its place"
    assert num_computed(harness) == 2 * (2 + 29) + 2 + 4


@each_way
def test_a_parked_sequence_goes_before_its_tenants_newer_ones(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, max_num_sequences=2, adapters=FakeAdapters(capacity=9))
    for number in range(6):  # adapters of their own: the queue alone would take the least served
        send(harness, "busy", f"busy {number}", num_new=20, adapter=f"adapter {number}")
    for _ in range(12):
        harness.step()
    send(harness, "quiet", "q", num_new=3)
    harness.run_until_idle()
    ends = [event.request_id for event in harness.link.events if event.finish_reason]
    assert ends == ["q", *(f"busy {number}" for number in range(6))]


@each_way
def test_blocks_of_parked_sequences_are_taken_before_anybody_is_preempted(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, num_blocks=16, max_num_sequences=2, max_batch_tokens=64)
    for name in ("a", "bb"):
        send(harness, "busy", name, prompt=(*[5] * 11, 6, len(name)), num_new=16)
    for _ in range(10):
        harness.step()
    send(harness, "quiet", "q", prompt=tuple(range(24)), num_new=8)
    preempted: list[str] = []
    harness.scheduler._waiting.put_back = lambda each: preempted.append(each.id.request_id)
    harness.run_until_idle()
    assert preempted == []
    assert harness.tokens("q") == expected_tokens(list(range(24)), 8)
    for name in ("a", "bb"):
        assert harness.tokens(name) == expected_tokens([*[5] * 11, 6, len(name)], 16)
    assert harness.allocator.num_used == 0
    assert num_computed(harness) > 2 * (13 + 15) + 24 + 7, "nothing was taken"


@each_way
def test_an_adapter_that_is_not_there_moves_nothing(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, max_num_sequences=2, adapters=FakeAdapters(delay=10))
    for name in ("a", "b"):
        send(harness, "busy", name, num_new=40)
    for _ in range(6):
        harness.step()
    send(harness, "quiet", "q", adapter="cold", num_new=9)
    for _ in range(9):
        harness.step()
        assert running(harness) == {"busy": 2}
    for _ in range(3):
        harness.step()
    assert running(harness)["quiet"] == 1
    harness.run_until_idle()
    assert harness.tokens("q") == expected_tokens([1, 2], 9, adapter="cold")


@each_way
def test_nothing_is_kept_on_the_device_for_who_would_have_to_give(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, max_num_sequences=2, adapters=FakeAdapters(delay=99))
    for name, adapter in (("a", None), ("b", None), ("c", "later")):
        send(harness, "busy", name, num_new=20, adapter=adapter)
    for _ in range(6):
        harness.step()
    assert harness.adapters.expected == set(), "it is alone, and has no place for more"
    send(harness, "quiet", "q", adapter="cold")
    harness.step()
    assert harness.adapters.expected == {adapter_ref("cold")}
    send(harness, "other", "o", num_new=20)
    harness.step()
    assert running(harness) == {"busy": 1, "other": 1}
    harness.step()
    assert harness.adapters.expected == set(), "nobody holds more than a share"


@each_way
def test_no_tenant_falls_below_its_share_and_backlogs_even_out(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, num_blocks=400, max_num_sequences=9, max_batch_tokens=64)
    for number in range(20):
        send(harness, "first", f"first {number}", num_new=60)
    for _ in range(10):
        harness.step()
    assert running(harness) == {"first": 9}
    for number in range(20):
        send(harness, "second", f"second {number}", num_new=60)
        send(harness, "third", f"third {number}", num_new=60)
    for _ in range(3):
        harness.step()
    for _ in range(40):  # none of the sequences ends meanwhile
        assert running(harness) == {"first": 3, "second": 3, "third": 3}
        harness.step()


@each_way
def test_a_sequence_is_given_some_tokens_before_it_gives_its_place(overlaps: bool) -> None:
    harness = Harness(overlaps=overlaps, max_num_sequences=2, num_blocks=200)
    for name in ("a", "b"):
        send(harness, "busy", name, num_new=60)
    given: list[int] = []
    original = harness.scheduler._waiting.made_room
    at_start: dict[str, int] = {}

    def made_room(sequence):  # type: ignore[no-untyped-def]
        name = sequence.id.request_id
        given.append(len(sequence.output_token_ids) - at_start.get(name, 0))
        at_start[name] = len(sequence.output_token_ids)
        original(sequence)

    harness.scheduler._waiting.made_room = made_room
    for number in range(12):
        for _ in range(3):
            harness.step()
        send(harness, f"quiet {number}", f"q{number}", num_new=1)
    harness.run_until_idle()
    assert len(given) >= 2 and min(given) >= 4


def test_what_is_computed_again_has_to_be_earned() -> None:
    shares = PlaceShares()
    harness = Harness()
    send(harness, "t", "r", num_new=50)
    harness.step()
    (sequence,) = (item.sequence for item in harness.runner.steps[-1].scheduled)
    shares.began(sequence, 400)
    assert sequence.stays_until == len(sequence.output_token_ids) + 100


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    places=st.integers(4, 8),
    num_busy=st.integers(1, 2),
    overlaps=st.booleans(),
)
def test_a_new_tenant_never_waits_for_an_answer_to_end(
    seed: int, places: int, num_busy: int, overlaps: bool
) -> None:
    rng = random.Random(seed)
    harness = Harness(
        overlaps=overlaps, num_blocks=600, max_num_sequences=places, max_batch_tokens=64
    )
    for number in range(30 * num_busy):
        send(harness, f"busy {number % num_busy}", f"b{number}", num_new=rng.randint(50, 90))
    arrived: dict[str, int] = {}
    waits: dict[str, int] = {}
    for now in range(120):
        # At most one for every place that nobody needs to keep.
        if now > 10 and len(arrived) - len(waits) < places - num_busy and rng.random() < 0.3:
            arrived[f"new {now}"] = now
            send(harness, f"tenant {now}", f"new {now}", num_new=rng.randint(1, 6))
        harness.step()
        for event in harness.link.events:
            if event.request_id in arrived:
                waits.setdefault(event.request_id, now - arrived[event.request_id])
        harness.link.events.clear()
    assert len(waits) > 10
    assert max(waits.values()) <= 8


TRAFFIC = st.lists(
    st.fixed_dictionaries(
        {
            "arrival": st.integers(0, 20),
            "tenant": st.sampled_from("xxxyz"),
            "prompt": st.lists(st.integers(0, 3), min_size=1, max_size=24).map(tuple),
            "num_new": st.integers(1, 20),
            "adapter": st.sampled_from([None, None, "a", "b", "c", "bad"]),
            "abort_at": st.none() | st.integers(0, 60),
        }
    ),
    min_size=10,
    max_size=20,
)


@each_way
def test_any_traffic_of_tenants_gives_each_request_its_solo_tokens_and_one_end(
    overlaps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: Counter[str] = Counter()
    made_room, grow = FairQueue.made_room, Places.grow

    def counted_made_room(queue, sequence):  # type: ignore[no-untyped-def]
        happened["parked"] += 1
        made_room(queue, sequence)

    def counted_grow(places, sequence, num_tokens):  # type: ignore[no-untyped-def]
        num_parked = len(places._parked)
        has_grown = grow(places, sequence, num_tokens)
        happened["taken"] += num_parked - len(places._parked)
        return has_grown

    monkeypatch.setattr(FairQueue, "made_room", counted_made_room)
    monkeypatch.setattr(Places, "grow", counted_grow)

    @settings(derandomize=True, max_examples=150, deadline=None)
    @given(
        traffic=TRAFFIC,
        num_blocks=st.integers(11, 40),
        max_num_sequences=st.integers(1, 5),
        max_batch_tokens=st.integers(6, 32),
        prefix_cache=st.booleans(),
        capacity=st.integers(1, 3),
    )
    def check(traffic, capacity, **options) -> None:  # type: ignore[no-untyped-def]
        adapters = FakeAdapters(capacity=capacity, delay=3, broken=frozenset({"bad"}))
        harness = Harness(overlaps=overlaps, adapters=adapters, **options)
        for now in range(61):
            for name, each in enumerate(traffic):
                if each["arrival"] == now:
                    asked = {key: each[key] for key in ("prompt", "num_new", "adapter")}
                    send(harness, each["tenant"], str(name), **asked)
                if each["abort_at"] == now and now > each["arrival"]:
                    harness.abort(str(name))
            harness.step()
            harness.scheduler.check_integrity()
            assert harness.scheduler.num_running <= options["max_num_sequences"]
        harness.run_until_idle()
        assert harness.allocator.num_used == 0
        assert all(slot.num_pins == 0 for slot in adapters.resident.values())
        assert adapters.loading == {}, "an adapter is kept for nobody"
        assert not harness.scheduler._places.shares._held
        for name, each in enumerate(traffic):
            is_aborted = each["abort_at"] is not None and each["abort_at"] > each["arrival"]
            check_answer(harness, str(name), each, is_aborted=is_aborted)

    check()
    assert happened["parked"] > 100 and happened["taken"] > 10, happened


def check_answer(harness: Harness, name: str, each, *, is_aborted: bool) -> None:  # type: ignore[no-untyped-def]
    expected = (
        []
        if each["adapter"] == "bad"
        else expected_tokens(list(each["prompt"]), each["num_new"], each["adapter"])
    )
    tokens, ends = harness.tokens(name), harness.terminal_events(name)
    if is_aborted and not ends:
        assert tokens == expected[: len(tokens)]
    else:
        assert tokens == expected
        assert len(ends) == 1


def quiet_waits(noisy_times: float, *, num_steps: int = 2000) -> list[int]:
    """Steps to the first token of twenty quiet tenants at 0.8 of their share, sorted, beside one
    that asks for so many times its share. A step takes the same time however many run in it."""
    places, num_new, num_quiet = 16, 16, 20
    share = places / num_new / (num_quiet + 1)
    rates = {f"quiet {number}": 0.8 * share for number in range(num_quiet)}
    rates["noisy"] = noisy_times * share
    rng = random.Random(0)
    upcoming = {tenant: rng.expovariate(rate) for tenant, rate in rates.items()}
    harness = Harness(num_blocks=4000, max_num_sequences=places, max_batch_tokens=256)
    arrived: dict[str, int] = {}
    waits: dict[str, int] = {}
    for now in range(num_steps):
        for tenant, rate in rates.items():
            while upcoming[tenant] <= now:
                upcoming[tenant] += rng.expovariate(rate)
                name = f"{tenant}, {len(arrived)}"
                arrived[name] = now
                send(harness, tenant, name, prompt=(1,) * BLOCK_SIZE, num_new=num_new)
        harness.step()
        for event in harness.link.events:
            waits.setdefault(event.request_id, now - arrived[event.request_id])
        harness.link.events.clear()
    quiet = {name: at for name, at in arrived.items() if name.startswith("quiet")}
    return sorted(waits.get(name, num_steps - at) for name, at in quiet.items())


def test_quiet_tenants_wait_hardly_longer_beside_a_noisy_one() -> None:
    calm, beside = quiet_waits(1), quiet_waits(10)
    assert len(beside) > 1000
    assert beside[len(beside) // 2] == 0 == beside[len(beside) * 3 // 4]
    assert beside[len(beside) * 99 // 100] <= 1.5 * calm[len(calm) * 99 // 100]
