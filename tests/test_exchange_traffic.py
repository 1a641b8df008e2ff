"""The exchange under the traffic of bench_exchange.py, small: outputs, hits, and waits in steps."""

import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from exchange_cases.driver import LocalEngine
from exchange_cases.model import (
    adapter_bytes,
    model_config,
    random_model,
    write_adapter,
    write_adapters,
)
from exchange_cases.traces import lru_hits, tier_hits, zipf_trace

from lorax_serve.engine.adapters import reader as reader_module
from lorax_serve.engine.adapters.merge import read_merged
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.ipc.messages import AdapterAction, AdapterCommand
from lorax_serve.ipc.types import AdapterRef, MergedAdapters, MergeStrategy, RequestId

NUM_ADAPTERS = 60
PROMPT = list(range(3, 43))


@pytest.fixture(scope="module")
def model() -> Iterator[Decoder]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield random_model(model_config(hidden_size=64, num_layers=2))
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def refs(model: Decoder, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    return write_adapters(tmp_path_factory.mktemp("adapters"), model, NUM_ADAPTERS)


@pytest.fixture(scope="module")
def many_refs(model: Decoder, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    return write_adapters(tmp_path_factory.mktemp("many"), model, 101)


def engine(model: Decoder, device_slots: int, host_slots: int, **config: object) -> LocalEngine:
    size = adapter_bytes(model)
    return LocalEngine(
        model,
        adapter_pool_bytes=device_slots * size,
        host_adapter_bytes=host_slots * size,
        **config,
    )


def finish_loads(one: LocalEngine) -> None:
    """Let what is on a thread come to its end, so that waits in steps are those of the policy."""
    loader = one.parts.exchange._loader
    while loader._reading or loader._packing:
        time.sleep(0.001)
        one.parts.exchange.poll()


def solo(model: Decoder, ref: AdapterRef, prompt: list[int], num_tokens: int) -> list[int]:
    with engine(model, 1, 1, prefix_cache=False) as alone:
        alone.submit("solo", prompt, ref, num_tokens=num_tokens)
        alone.run(lambda: False)
        return alone.trips["solo"].token_ids


@pytest.mark.parametrize("sizes", ["equal", "mixed"])
def test_the_policy_beats_lru_on_a_zipf_trace(sizes: str) -> None:
    rng = random.Random(1)
    trace = zipf_trace(500, 5000)
    each = [256 * (4 if sizes == "equal" else rng.choice((1, 2, 4, 8))) for _ in range(500)]
    for slots in (16, 64):
        capacity = slots * sum(each) // len(each)
        assert tier_hits(trace, each, capacity) > 1.08 * lru_hits(trace, each, capacity)


def num_open(one: LocalEngine) -> int:
    return sum(not trip.has_ended for trip in one.trips.values())


def test_row_25_churn_beyond_capacity_changes_no_output_and_starves_nobody(
    model: Decoder, tmp_path: Path
) -> None:
    """500 adapters through 4 slots, of which an operator has pinned one; its users, and those of
    the others, get what each gets alone."""
    refs = write_adapters(tmp_path, model, 500)
    trace = random.Random(0).sample(range(1, 500), 499)
    with engine(model, 4, 10, max_num_sequences=16, max_loading=2) as together:
        pin = AdapterCommand(RequestId("pin"), AdapterAction.PIN, refs[0])
        together.core._accept(b"bench", pin)
        for index, adapter in enumerate(trace):
            prompt = PROMPT[: 2 + index % 20]
            together.submit(str(index), prompt, refs[adapter], num_tokens=2 + index % 7)
            if index % 10 == 0:
                together.submit(f"pinned {index}", PROMPT[:5], refs[0], num_tokens=9)
            while num_open(together) > (24 if index < len(trace) - 1 else 0):
                together.step()
                finish_loads(together)
        exchange = together.parts.exchange
        exchange.check_integrity()
        assert exchange.pool.pinned_bytes == adapter_bytes(model)
        assert exchange.store.pinned_bytes == 0
        assert exchange.counts.num_copies >= exchange.counts.num_loads == 500
        trips = together.trips
    with engine(model, 32, 64) as alone:  # one at a time
        for index in range(0, len(trace), 7):
            prompt = PROMPT[: 2 + index % 20]
            alone.submit(str(index), prompt, refs[trace[index]], num_tokens=2 + index % 7)
            alone.run(lambda: False)
            assert trips[str(index)].token_ids == alone.trips[str(index)].token_ids, index
        alone.submit("pinned", PROMPT[:5], refs[0], num_tokens=9)
        alone.run(lambda: False)
        expected = alone.trips["pinned"].token_ids
    for index in range(0, len(trace), 10):
        assert trips[f"pinned {index}"].token_ids == expected
    assert max(trip.first_token_steps for trip in trips.values()) <= 80


def test_a_quiet_tenants_wait_does_not_depend_on_the_noisy_ones_backlog(
    model: Decoder, refs: list[AdapterRef]
) -> None:
    def quiet_waits(num_noisy: int) -> list[int]:
        with engine(model, 8, 60, max_num_sequences=8) as one:
            for index in range(num_noisy):
                ref = refs[index % 40]
                one.submit(f"noisy {index}", [1, 2], ref, num_tokens=6, tenant="noisy")
            for _ in range(30):
                if not one.step():
                    one.wait(0.01)
            for index in range(10):
                ref = refs[40 + index]
                one.submit(f"quiet {index}", [1, 2], ref, num_tokens=6, tenant=f"quiet {index}")
            one.run(lambda: False)
            return [t.first_token_steps for n, t in one.trips.items() if n.startswith("quiet")]

    few, many = quiet_waits(60), quiet_waits(240)
    assert max(many) <= 2 * max(few) + 8


def test_slot_fairness(model: Decoder, refs: list[AdapterRef]) -> None:
    """One tenant cycles through more adapters than either tier holds. Another's adapter, which is
    evicted each time, gets a place soon; as that of the same tenant it waits its turn.
    """

    def waits(tenant: str) -> list[int]:
        with engine(model, 4, 8, max_num_sequences=8, max_loading=2) as one:
            for index in range(300):
                ref = refs[1 + index % (NUM_ADAPTERS - 1)]
                one.submit(f"cycling {index}", [1, 2], ref, num_tokens=6, tenant="cycling")
            for _ in range(30):
                one.step()
                finish_loads(one)
            for index in range(160):
                if index % 8 == 0:
                    one.submit(f"other {index}", [1, 2], refs[0], num_tokens=6, tenant=tenant)
                one.step()
                finish_loads(one)
            assert any(not t.has_ended for n, t in one.trips.items() if n.startswith("cycling"))
            one.run(lambda: False)
            return [t.first_token_steps for n, t in one.trips.items() if n.startswith("other")]

    fair = max(waits("other"))
    assert fair <= 50  # of some hundreds that the backlog takes
    assert max(waits("cycling")) > 2 * fair


def test_a_quiet_tenants_pruned_merge_waits_for_one_or_two_of_a_noisy_ones(
    model: Decoder, refs: list[AdapterRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin one at a time, and in turns, however many of a tenant's wait."""
    begun: list[str] = []
    gate = threading.Semaphore(0)

    def gated(merge: MergedAdapters, *args: Any, **options: Any) -> LoraWeights:
        begun.append(merge.name)
        assert gate.acquire(timeout=30)
        return read_merged(merge, *args, **options)

    monkeypatch.setattr(reader_module, "read_merged", gated)
    merges = [
        MergedAdapters((refs[i], refs[i + 1]), (1.0, 1.0), MergeStrategy.TIES, 0.5)
        for i in range(41)
    ]
    with engine(model, 60, 60) as one:
        for index, merge in enumerate(merges[:40]):
            one.submit(f"noisy {index}", PROMPT, merge, num_tokens=4, tenant="noisy")
        while not begun:
            one.step()
        one.submit("quiet", PROMPT, merges[40], num_tokens=4, tenant="quiet")
        for _ in range(5):
            one.step()
        while merges[40].name not in begun and len(begun) < 10:
            num_begun = len(begun)
            gate.release()
            while len(begun) == num_begun:
                if not one.step():
                    one.wait(0.01)
        gate.release(len(merges))
        assert merges[40].name in begun[:3]


@pytest.mark.parametrize("popularity", ["zipf", "uniform"])
def test_a_burst_over_more_adapters_than_fit_takes_few_steps(
    model: Decoder, refs: list[AdapterRef], popularity: str
) -> None:
    """Against what no order of serving could beat: places in a step, and places on the device."""
    num_places, num_slots, num_tokens = 32, 8, 12
    if popularity == "zipf":
        picks = zipf_trace(NUM_ADAPTERS, 160)
    else:
        picks = random.Random(1).choices(range(NUM_ADAPTERS), k=160)
    with engine(model, num_slots, NUM_ADAPTERS, max_num_sequences=num_places) as one:
        for index in range(NUM_ADAPTERS):
            one.submit(f"warm {index}", [1, 2], refs[index], num_tokens=1)
        one.run(lambda: False)
        before = one.num_steps
        for index, adapter in enumerate(picks):
            one.submit(str(index), PROMPT[:4], refs[adapter], num_tokens=num_tokens)
        one.run(lambda: False)
        num_steps = one.num_steps - before
    least = num_tokens * max(len(picks) / num_places, len(set(picks)) / num_slots)
    assert num_steps <= 1.35 * least, num_steps / least


def test_weights_replaced_in_flight_never_mix(model: Decoder, tmp_path: Path) -> None:
    """The same name, new revision: who runs finishes on the old weights, newcomers get the new
    ones, and neither finds the other's prefix blocks."""
    folder = tmp_path / "moving"
    expected = {}
    for seed in (100, 101, 102):
        ref = write_adapter(tmp_path / f"copy-{seed}" / "moving", model, seed, revision=str(seed))
        expected[seed] = solo(model, ref, PROMPT, 24)
    assert len({tuple(tokens) for tokens in expected.values()}) == 3
    with engine(model, 2, 2) as served:
        for seed in (100, 101, 102):
            ref = write_adapter(folder, model, seed, revision=str(seed))
            for index in range(3):
                served.submit(f"{seed} {index}", PROMPT, ref, num_tokens=24)
            while not served.trips[f"{seed} 0"].token_ids:  # it runs; then the files are replaced
                if not served.step():
                    served.wait(0.01)
        served.run(lambda: False)
        for name, trip in served.trips.items():
            assert trip.token_ids == expected[int(name.split()[0])], name


@pytest.mark.parametrize("num_held", [10, 30])
@pytest.mark.parametrize("host_slots", [1, 2, 4, 8, 16])
def test_room_that_is_held_for_some_comes_to_those_who_go_before_them(
    model: Decoder, many_refs: list[AdapterRef], host_slots: int, num_held: int
) -> None:
    """A tenant's adapters fill the host, waiting for the one place on the device; then another
    tenant comes, whose turn it is, with more adapters than are considered at a time."""
    refs = many_refs
    with engine(model, 1, host_slots) as one:
        one.submit("running", PROMPT, refs[-1], num_tokens=60, tenant="first")
        while not one.parts.scheduler.num_running:
            step_loads(one)
        for index, ref in enumerate(refs[:num_held]):
            one.submit(f"held {index}", PROMPT[:8], ref, num_tokens=4, tenant="first")
        for index in range(30):
            step_loads(one)
            if index > 10:  # these pass the others by, until the place is reserved
                one.submit(f"passing {index}", PROMPT[:2], refs[-1], num_tokens=1, tenant="first")
        assert one.parts.scheduler.num_running
        for index, ref in enumerate(refs[num_held : num_held + 70]):
            one.submit(f"late {index}", PROMPT[:8], ref, num_tokens=4, tenant="second")
        num_idle = 0
        while num_open(one):
            num_idle = 0 if step_loads(one) else num_idle + 1
            assert num_idle < 10, "everybody waits for somebody else"
        one.parts.exchange.check_integrity()
        assert one.parts.exchange.store.pinned_bytes == 0


def step_loads(one: LocalEngine) -> bool:
    was_busy = one.step()
    finish_loads(one)
    return was_busy
