"""The exchange with real threads and real files: who waits for an adapter is lent it, once read."""

import random
import shutil
from pathlib import Path

import pytest

from exchange_bench import NAMES, PATIENCE_SECONDS, Bench, GatedReader, adapter_bytes, assert_holds
from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import AdapterRef
from peft_adapters import adapter_ref, edit_bytes, edit_config
from read_adapters import digest_of


def test_an_adapter_is_read_on_a_thread_and_lent_pinned(bench: Bench, folders: Path) -> None:
    ref = adapter_ref(folders / "a")
    assert bench.exchange.acquire(ref) is None
    assert bench.exchange.num_loading == 1
    slot = bench.acquired(ref)
    assert_holds(bench.memory, slot, folders / "a")
    assert slot.num_pins == 1
    assert bench.exchange.acquire(ref) is slot and slot.num_pins == 2
    bench.exchange.release(slot)
    bench.exchange.release(slot)
    assert (bench.exchange.pool.num_resident, bench.exchange.num_loading) == (1, 0)
    assert all(name.startswith("adapter-loader") for name in bench.waking_threads)


def test_a_hundred_prefetches_are_one_read(
    bench: Bench, folders: Path, reader: GatedReader
) -> None:
    ref = adapter_ref(folders / "a")
    for _ in range(50):
        bench.exchange.prefetch(ref)
        assert bench.exchange.acquire(ref) is None
        bench.exchange.poll()
    reader.gate.set()
    bench.exchange.release(bench.acquired(ref))
    bench.exchange.prefetch(ref)
    assert reader.counts == {"a": 1}


def test_whoever_may_wait_on_the_device_is_lent_what_is_arriving(
    originals: Path, folders: Path
) -> None:
    bench = Bench(capacity_bytes=2 * adapter_bytes(originals), copy_delay=1000)
    ref = adapter_ref(folders / "a")
    bench.exchange.prefetch(ref)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    assert bench.exchange.acquire(ref) is None and bench.exchange.num_arriving == 1
    slot = bench.exchange.acquire(ref, even_arriving=True)
    assert slot is not None and not bench.pool.is_ready(slot)
    assert_holds(bench.memory, slot, folders / "a")
    bench.exchange.release(slot)
    bench.assert_nothing_held()
    bench.exchange.close()


def test_what_was_evicted_comes_back_without_a_second_read(bench: Bench, folders: Path) -> None:
    for name in ("a", "b", "c"):
        bench.use(adapter_ref(folders / name))
    assert bench.exchange.pool.num_resident == 2
    evicted = [name for name in "abc" if bench.pool.find(digest_of(folders / name)) is None]
    shutil.rmtree(folders / evicted[0])
    slot = bench.exchange.acquire(adapter_ref(folders / evicted[0]))
    assert slot is not None and slot.digest
    assert bench.exchange.counts.num_loads == 3 and bench.exchange.counts.num_copies == 4


def test_equal_files_share_a_slot(bench: Bench, folders: Path) -> None:
    shutil.copytree(folders / "a", folders / "twin")
    first = bench.acquired(adapter_ref(folders / "a"))
    assert bench.acquired(adapter_ref(folders / "twin")) is first
    renamed = adapter_ref(folders / "a", name="other", revision="2")
    assert bench.acquired(renamed) is first
    assert first.num_pins == 3 and bench.exchange.pool.num_resident == 1


def test_a_new_revision_is_a_new_adapter(bench: Bench, folders: Path) -> None:
    old = bench.acquired(adapter_ref(folders / "a", revision="1"))
    edit_config(folders / "a", lora_alpha=99)
    new = bench.acquired(adapter_ref(folders / "a", revision="2"))
    assert new is not old and new.digest != old.digest
    assert bench.exchange.acquire(adapter_ref(folders / "a", revision="1")) is old
    assert_holds(bench.memory, new, folders / "a")


def test_nobody_waiting_means_nothing_kept(
    bench: Bench, folders: Path, reader: GatedReader
) -> None:
    refs = [adapter_ref(folders / name) for name in ("a", "b", "c")]
    for ref in refs:
        bench.exchange.prefetch(ref)
    for _ in range(2):
        assert reader.started.acquire(timeout=PATIENCE_SECONDS)
    assert bench.exchange.num_loading == 3
    for ref in refs:
        bench.exchange.cancel(ref)
    reader.gate.set()
    bench.assert_nothing_held()
    assert bench.exchange.pool.num_resident == 0 == len(bench.store)
    assert "c" not in reader.counts
    assert_holds(bench.memory, bench.acquired(refs[0]), folders / "a")


def test_interest_that_returns_while_loading_needs_no_second_read(
    bench: Bench, folders: Path, reader: GatedReader
) -> None:
    ref = adapter_ref(folders / "a")
    bench.exchange.prefetch(ref)
    assert reader.started.acquire(timeout=PATIENCE_SECONDS)
    bench.exchange.cancel(ref)
    bench.exchange.prefetch(ref)
    reader.gate.set()
    assert_holds(bench.memory, bench.acquired(ref), folders / "a")
    assert reader.counts == {"a": 1}


@pytest.mark.parametrize("copy_delay", [0, 3])
@pytest.mark.parametrize("host_slots", [1, 3, 8])
@pytest.mark.parametrize("device_slots", [1, 3])
def test_any_traffic_serves_every_waiter(
    originals: Path, folders: Path, device_slots: int, host_slots: int, copy_delay: int
) -> None:
    """A loop like the scheduler's, with waiters that give up, through small tiers."""
    rng = random.Random(device_slots + 10 * host_slots + 100 * copy_delay)
    edit_bytes(folders / "h", lambda data: data[:-1])
    size = adapter_bytes(originals)
    bench = Bench(
        capacity_bytes=device_slots * size, host_bytes=host_slots * size, copy_delay=copy_delay
    )
    exchange = bench.exchange
    waiting: list[tuple[int, AdapterRef]] = []
    running: list[AdapterSlot] = []
    digests = {name: digest_of(folders / name) for name in NAMES[:-1]}
    num_arrived = num_served = num_failed = num_left = 0
    while num_arrived < 150 or waiting or running:
        bench.woken.clear()
        exchange.poll()
        for _ in range(min(rng.randint(1, 3), 150 - num_arrived)):
            waiting.append((num_arrived, adapter_ref(folders / rng.choice(NAMES))))
            exchange.prefetch(waiting[-1][1])
            num_arrived += 1
        for item in [item for item in waiting if rng.random() < 0.002]:
            leave(exchange, waiting, item)
            num_left += 1
        progress = False
        for item in tuple(waiting):
            ref = item[1]
            if len(running) >= 4:
                break
            try:
                slot = exchange.acquire(ref)
            except AdapterRejected:
                assert ref.name == "h"
                leave(exchange, waiting, item)
                num_failed += 1
                progress = True
                continue
            if slot is not None:
                assert slot.digest == digests[ref.name]
                assert_holds(bench.memory, slot, folders / ref.name)
                waiting.remove(item)
                running.append(slot)
                num_served += 1
                progress = True
        exchange.stage(dict.fromkeys(list(dict.fromkeys(ref for _, ref in waiting))[:3]))
        exchange.check_integrity()
        while running and (rng.random() < 0.5 or not progress):
            exchange.release(running.pop(rng.randrange(len(running))))
            progress = True
        if waiting and not progress and not exchange.num_arriving:
            assert bench.woken.wait(PATIENCE_SECONDS), f"stuck with {waiting}"
    assert num_served + num_failed + num_left == 150
    assert num_served > num_failed + num_left
    bench.assert_nothing_held()
    exchange.close()


def leave(
    exchange: AdapterExchange, waiting: list[tuple[int, AdapterRef]], item: tuple[int, AdapterRef]
) -> None:
    waiting.remove(item)
    if all(ref != item[1] for _, ref in waiting):
        exchange.cancel(item[1])
