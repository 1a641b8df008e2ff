"""The fair queue: served tokens even out, nobody saves up turns, and memory is bounded."""

import random
from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine import fair_queue, virtual_counters
from lorax_serve.engine.fair_queue import OUTPUT_WEIGHT, PROMPT_WEIGHT, FairQueue
from lorax_serve.engine.sequence import Sequence, SequenceId
from lorax_serve.ipc.types import (
    AdapterRef,
    MergedAdapters,
    RequestId,
    SamplingParams,
    StopConditions,
)


class Arrivals:
    """Makes sequences, in order of arrival."""

    def __init__(self) -> None:
        self._num = 0

    def __call__(self, tenant: str = "", adapter: str = "", num_prompt: int = 10) -> Sequence:
        self._num += 1
        return Sequence(
            id=SequenceId(b"", RequestId(str(self._num))),
            arrival=self._num,
            arrival_time=0.0,
            prompt_token_ids=[1] * num_prompt,
            sampling=SamplingParams(),
            stop=StopConditions(max_new_tokens=10),
            eos_token_ids=frozenset(),
            adapter=AdapterRef(adapter, f"/{adapter}", "1") if adapter else None,
            tenant=tenant,
        )


def admit(queue: FairQueue) -> Sequence:
    """The next one, charged for its prompt."""
    sequence = next(queue.candidates())
    queue.remove(sequence)
    queue.admitted(sequence, sequence.num_prompt_tokens)
    return sequence


def test_one_client_is_first_come_first_served() -> None:
    queue, arrive = FairQueue(), Arrivals()
    sequences = [arrive(num_prompt=50 - number) for number in range(20)]
    for sequence in sequences:
        queue.push(sequence)
    assert [admit(queue) for _ in sequences] == sequences
    assert len(queue) == 0 and list(queue) == [] == list(queue.candidates())


def test_a_quiet_tenant_is_next_whatever_waits_before_it() -> None:
    queue, arrive = FairQueue(), Arrivals()
    for number in range(100):
        queue.push(arrive("noisy", f"adapter {number}"))
    for _ in range(10):
        admit(queue)
    quiet = arrive("quiet", "adapter 0")
    queue.push(quiet)
    assert quiet in (admit(queue), admit(queue))


def test_many_adapters_give_a_tenant_no_more_than_one() -> None:
    queue, arrive = FairQueue(), Arrivals()
    for number in range(90):
        queue.push(arrive("many", f"adapter {number}"))
        queue.push(arrive("one", "adapter"))
    served = [admit(queue).tenant for _ in range(60)]
    assert abs(served.count("many") - served.count("one")) <= 1


def test_many_names_give_an_adapter_no_more_than_one() -> None:
    queue, arrive = FairQueue(), Arrivals()
    for number in range(90):
        alias = arrive("", "popular")
        alias.adapter = AdapterRef(f"name {number % 4}", "/popular", "1")
        queue.push(alias)
        queue.push(arrive("", "other"))
    paths = [sequence.adapter.path for _ in range(60) if (sequence := admit(queue)).adapter]
    assert abs(paths.count("/popular") - paths.count("/other")) <= 1


def test_several_admitted_in_one_pass_are_as_fair() -> None:
    queue, arrive = FairQueue(), Arrivals()
    for _ in range(20):
        queue.push(arrive("a", num_prompt=30))
        queue.push(arrive("b", num_prompt=10))
    served: list[str] = []
    for sequence in queue.candidates():
        if len(served) == 20:
            break
        queue.remove(sequence)
        queue.admitted(sequence, sequence.num_prompt_tokens)
        served.append(sequence.tenant)
    assert served.count("b") == 15 and served[:4].count("b") >= 2


def test_a_popular_adapter_does_not_starve_another_of_the_same_tenant() -> None:
    queue, arrive = FairQueue(), Arrivals()
    for _ in range(50):
        queue.push(arrive(adapter="popular"))
    queue.push(arrive(adapter="rare"))
    assert "rare" in [_name(admit(queue)) for _ in range(3)]


def test_staying_away_saves_up_a_little_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "_MAX_SAVED", 40)
    queue, arrive = FairQueue(), Arrivals()
    for _ in range(100):
        queue.push(arrive("busy"))
    for _ in range(50):
        admit(queue)
    for _ in range(50):
        queue.push(arrive("late"))
    served = [admit(queue).tenant for _ in range(24)]
    assert served[:4] == ["late"] * 4  # 40 tokens
    assert 13 <= served.count("late") <= 15


def test_an_adapter_saves_nothing_up() -> None:
    queue, arrive = FairQueue(), Arrivals()
    for _ in range(100):
        queue.push(arrive(adapter="busy"))
    for _ in range(50):
        admit(queue)
    for _ in range(50):
        queue.push(arrive(adapter="late"))
    served = [_name(admit(queue)) for _ in range(20)]
    assert 9 <= served.count("late") <= 11


def test_a_client_that_leaves_and_returns_has_not_become_poorer_or_richer() -> None:
    """Alone in the queue, it is lifted to the last one that left, which may be itself."""
    queue, arrive = FairQueue(), Arrivals()
    for _ in range(5):
        queue.push(arrive("a", num_prompt=100))
        admit(queue)
    queue.push(arrive("b"))
    queue.push(arrive("a"))
    assert [admit(queue).tenant for _ in range(2)] == ["b", "a"]


def test_one_that_was_served_much_is_not_starved_by_ever_new_ones() -> None:
    queue, arrive = FairQueue(), Arrivals()
    for _ in range(60):
        queue.push(arrive(adapter="popular"))
        admit(queue)
    for number in range(10):
        queue.push(arrive(adapter=f"new {number}"))
    queue.push(arrive(adapter="popular"))
    served = []
    for number in range(10, 40):
        queue.push(arrive(adapter=f"new {number}"))
        served.append(_name(admit(queue)))
    assert served.index("popular") <= 17


def test_tokens_generated_count_too() -> None:
    queue, arrive = FairQueue(), Arrivals()
    for _ in range(10):
        queue.push(arrive("talker"))
        queue.push(arrive("listener"))
    first, second = admit(queue), admit(queue)
    assert {first.tenant, second.tenant} == {"talker", "listener"}
    talker = first if first.tenant == "talker" else second
    for _ in range(15):
        queue.generated(talker, 1)
    assert [admit(queue).tenant for _ in range(3)] == ["listener"] * 3


def test_who_is_passed_by_is_not_charged_and_blocks_only_those_behind_it() -> None:
    queue, arrive = FairQueue(), Arrivals()
    cold, behind, other = arrive(adapter="cold"), arrive(adapter="cold"), arrive(adapter="other")
    for sequence in (cold, behind, other):
        queue.push(sequence)
    assert list(queue.candidates()) == [cold, other]
    assert list(queue.candidates()) == [cold, other]


def test_the_preempted_go_first_and_are_charged_once() -> None:
    queue, arrive = FairQueue(), Arrivals()
    sequences = [arrive("a") for _ in range(3)]
    for sequence in sequences:
        queue.push(sequence)
    old, young = admit(queue), admit(queue)
    queue.put_back(young)
    queue.put_back(old)
    newcomer = arrive("b")
    queue.push(newcomer)
    assert list(queue.candidates())[:2] == [old, young]
    assert len(queue) == 4 and set(queue) == {old, young, sequences[2], newcomer}
    for sequence in (old, young, sequences[2], newcomer):
        queue.remove(sequence)
    assert len(queue) == 0


def test_one_that_made_room_goes_before_newer_ones_of_its_tenant_alone() -> None:
    queue, arrive = FairQueue(), Arrivals()
    first, second = arrive("busy", "x"), arrive("busy", "x")
    newer, newest = arrive("busy", "x"), arrive("busy", "y")
    for sequence in (first, second):
        queue.push(sequence)
        admit(queue)
        sequence.first_scheduled_time = 0.0
        queue.generated(sequence, 5000)
    for sequence in (newer, newest, second, first):
        if sequence.first_scheduled_time is None:
            queue.push(sequence)
        else:
            queue.made_room(sequence)
    quiet = arrive("quiet")
    queue.push(quiet)
    assert queue.was_served_less("quiet", "busy") and not queue.was_served_less("busy", "quiet")
    assert queue.tenants == {"busy", "quiet"}
    assert [admit(queue) for _ in range(5)] == [quiet, first, second, newest, newer]


LONGEST = 120
MAX_SAVED = 100
PLACES = 4
# What requests in service can still be charged at most.
OUTSTANDING = PROMPT_WEIGHT * LONGEST + OUTPUT_WEIGHT * PLACES * LONGEST


class Service:
    """Admits whoever is next to a few places, and gives each that has one a token a step."""

    def __init__(self, rng: random.Random, by: Callable[[Sequence], str]) -> None:
        self.queue = FairQueue()
        self.served: Counter[str] = Counter()
        self._rng = rng
        self._by = by
        self._running: dict[Sequence, int] = {}  # and how many tokens each still gets

    def step(self) -> list[Sequence]:
        """Those that were admitted."""
        admitted = []
        while len(self._running) < PLACES and len(self.queue):
            sequence = admit(self.queue)
            self._running[sequence] = self._rng.randint(1, sequence.num_prompt_tokens)
            self.served[self._by(sequence)] += PROMPT_WEIGHT * sequence.num_prompt_tokens
            admitted.append(sequence)
        for sequence in tuple(self._running):
            self.queue.generated(sequence, 1)
            self.served[self._by(sequence)] += OUTPUT_WEIGHT
            self._running[sequence] -= 1
            if self._running[sequence] == 0:
                del self._running[sequence]
                self.queue.ended(sequence)
        return admitted


@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.lists(st.sampled_from([2, 10, 30, LONGEST]), min_size=2, max_size=24),
    by_tenant=st.booleans(),
    passing=st.integers(0, 3),
)
def test_the_service_of_two_that_wait_differs_by_a_bounded_amount(
    seed: int, sizes: list[int], by_tenant: bool, passing: int
) -> None:
    """However large the requests of each are, on either level, and whoever passes by."""
    rng = random.Random(seed)
    arrive = Arrivals()
    service = Service(rng, lambda s: s.tenant if by_tenant else _name(s))
    clients = {f"client {number}": size for number, size in enumerate(sizes)}
    waiting: Counter[str] = Counter()
    for step in range(250):
        for client, size in clients.items():  # each always has some waiting
            while waiting[client] < 5:
                adapter = rng.choice(["", "x", "y"]) if by_tenant else client
                num_prompt = rng.randint(max(1, size // 2), size)
                service.queue.push(arrive(client if by_tenant else "", adapter, num_prompt))
                waiting[client] += 1
        for number in range(rng.randint(0, passing) if len(service.queue) < 150 else 0):
            name = f"passing {step} {number}"
            service.queue.push(arrive(name if by_tenant else "", name, rng.randint(1, 10)))
        for sequence in service.step():
            waiting[service._by(sequence)] -= 1
        amounts = [service.served[client] for client in clients]
        assert max(amounts) - min(amounts) <= 2 * OUTSTANDING


@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([2, 30, LONGEST]),
    num_waiting=st.integers(1, 25),
    num_coming=st.integers(1, 3),
    by_tenant=st.booleans(),
)
def test_nobody_waits_for_ever_while_new_ones_keep_coming(
    seed: int, size: int, num_waiting: int, num_coming: int, by_tenant: bool
) -> None:
    """One d above the level, beside n clients, is next after n (d + M) tokens; where all that it
    was served it was served while nobody waited for long, d is M and what a newcomer has saved."""
    rng = random.Random(seed)
    arrive = Arrivals()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fair_queue, "_MAX_SAVED", MAX_SAVED)
        service = Service(rng, lambda s: s.tenant if by_tenant else _name(s))

    def push(client: str, num_prompt: int) -> Sequence:
        sequence = arrive(client if by_tenant else "", client, num_prompt)
        service.queue.push(sequence)
        return sequence

    for _ in range(30):
        push("popular", size)
        push("beside", 1)
        service.step()
    while len(service.queue):
        service.step()
    for number in range(num_waiting):
        push(f"waiting {number}", rng.randint(1, 20))
    last = push("popular", size)
    before, most_clients = sum(service.served.values()), 0
    for step in range(5000):
        # As many as find a place, or there were ever more of them.
        for number in range(min(num_coming, 30 + num_waiting - len(service.queue))):
            push(f"new {step} {number}", rng.randint(1, 20))
        most_clients = max(most_clients, len(service.queue) + PLACES)
        if last in service.step():
            break
    else:
        raise AssertionError("it waits still")
    saved = MAX_SAVED if by_tenant else 0
    total = sum(service.served.values()) - before
    assert total <= most_clients * (saved + 2 * OUTSTANDING)


@pytest.mark.parametrize("num_served", [20, 500])
def test_who_is_served_while_others_stand_aside_is_not_passed_for_it(num_served: int) -> None:
    """However much it was: those who stood aside go first, newcomers do not."""
    queue, arrive = FairQueue(), Arrivals()
    aside = [arrive(adapter=f"cold {number}") for number in range(20)]
    for sequence in aside:
        queue.push(sequence)  # their adapters are on their way
    for _ in range(num_served):
        hot = arrive(adapter="hot", num_prompt=100)
        queue.push(hot)
        queue.remove(hot)
        queue.admitted(hot, 100)
        queue.ended(hot)
    last = arrive(adapter="hot", num_prompt=100)
    queue.push(last)
    for number in range(5):
        queue.push(arrive(adapter=f"early {number}"))
    served = []
    while last not in served:
        queue.push(arrive(adapter=f"new {len(served)}"))
        served.append(admit(queue))
        queue.ended(served[-1])
        assert len(served) < 500
    assert set(aside) < set(served)


def test_nobody_waits_behind_another_version_or_another_merge_of_the_same_files() -> None:
    """Their loads wait for each other's room, or for minutes of pruning."""
    old, new = (AdapterRef("a", "/a", revision, is_writable=True) for revision in "12")
    other = AdapterRef("b", "/b", "1")
    merges = [MergedAdapters((old, other), weights) for weights in ((1.0, 1.0), (1.0, 0.5))]
    queue, arrive = FairQueue(), Arrivals()
    waiting = []
    for ref in (old, new, *merges, msgspec.structs.replace(new, name="c")):
        waiting.append(arrive())
        waiting[-1].adapter = ref
        queue.push(waiting[-1])
    assert list(queue.candidates()) == waiting[:4], "a name is no version"


def test_clients_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_counters, "_MAX_REMEMBERED", 10)
    queue, arrive = FairQueue(), Arrivals()
    for number in range(500):
        queue.push(arrive(f"tenant {number}"))
        queue.ended(admit(queue))
        queue.push(arrive("constant", f"adapter {number}"))
        queue.ended(admit(queue))
    assert len(queue._tenants) <= 11 and len(queue._adapters) <= 11
    assert all(len(counters) <= 11 for counters in queue._adapters.values())
    assert not queue._fifos
    # What is forgotten comes back level with the others, neither ahead nor behind.
    queue.push(arrive("constant"))
    queue.push(arrive("tenant 0"))
    assert {admit(queue).tenant for _ in range(2)} == {"constant", "tenant 0"}


def _name(sequence: Sequence) -> str:
    return "" if sequence.adapter is None else sequence.adapter.name
