"""A tenant that may fill only so many slots takes turns in them, and leaves others' alone."""

import random
from collections import Counter
from pathlib import Path

import pytest

from exchange_bench import NAMES, PATIENCE_SECONDS, Bench, adapter_bytes, assert_holds
from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.ipc.types import AdapterRef
from peft_adapters import adapter_ref
from read_adapters import digest_of


@pytest.mark.parametrize("bound", [None, 2])
def test_a_tenant_of_many_adapters_leaves_others_alone(
    originals: Path, folders: Path, bound: int | None
) -> None:
    bench = Bench(capacity_bytes=4 * adapter_bytes(originals), max_slots_per_tenant=bound)
    quiet = [bench.acquired(adapter_ref(folders / name), "quiet") for name in "ab"]
    for slot in quiet:
        bench.exchange.release(slot)
    for name in 3 * "cdefgh":
        bench.use(adapter_ref(folders / name), "busy")
        assert bound is None or bench.pool.num_of("busy") <= bound
    stayed = [bench.pool.find(slot.digest) is slot for slot in quiet]
    assert stayed == ([True, True] if bound else [False, False])
    bench.assert_nothing_held()
    bench.exchange.close()


def test_an_operator_fills_any_number_and_a_pin_counts_for_nobody(
    originals: Path, folders: Path
) -> None:
    bench = Bench(capacity_bytes=8 * adapter_bytes(originals), max_slots_per_tenant=1)
    for name in "abc":
        bench.use(adapter_ref(folders / name))
    slot = bench.acquired(adapter_ref(folders / "d"), "t")
    assert bench.pool.hold(slot)
    bench.exchange.release(slot)
    bench.use(adapter_ref(folders / "e"), "t")  # or the pin would keep every other of t's out
    assert bench.pool.num_resident == 5 and bench.pool.num_of("t") == 1
    bench.pool.unhold(slot)
    assert bench.pool.num_of("t") == 2
    bench.use(adapter_ref(folders / "f"), "t")
    assert bench.pool.num_resident == 4 and bench.pool.num_of("t") == 1
    bench.assert_nothing_held()
    bench.exchange.close()


def test_what_is_there_is_used_by_all(originals: Path, folders: Path) -> None:
    bench = Bench(capacity_bytes=4 * adapter_bytes(originals), max_slots_per_tenant=1)
    a, b = (adapter_ref(folders / name) for name in "ab")
    theirs = bench.acquired(a, "s")
    bench.use(b, "t")
    assert bench.acquired(a, "t") is theirs
    assert (bench.pool.num_of("s"), bench.pool.num_of("t")) == (1, 1)
    bench.exchange.close()


def test_users_of_its_adapters_cannot_keep_another_of_the_tenants_out(
    originals: Path, folders: Path
) -> None:
    """Somebody uses a at any time, so that its slot is never unpinned by itself."""
    bench = Bench(capacity_bytes=4 * adapter_bytes(originals), max_slots_per_tenant=1)
    a, b, c = (adapter_ref(folders / name) for name in "abc")
    others = bench.acquired(b, "other")
    held = bench.acquired(a, "t")
    bench.exchange.prefetch(c)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    for _ in range(100):
        bench.exchange.poll()
        slot = bench.exchange.acquire(c, tenant="t")
        if slot is not None:
            break
        newcomer = bench.exchange.acquire(a, tenant="t")
        if held.num_pins:
            bench.exchange.release(held)
        held = newcomer or held
    assert slot is not None
    assert_holds(bench.memory, slot, folders / "c")
    assert bench.pool.find(digest_of(folders / "a")) is None
    assert bench.pool.find(others.digest) is others
    bench.exchange.release(slot)
    bench.exchange.release(others)
    bench.assert_nothing_held()
    bench.exchange.close()


def test_who_gives_up_lets_the_slot_that_made_way_be_used_again(
    originals: Path, folders: Path
) -> None:
    bench = Bench(capacity_bytes=4 * adapter_bytes(originals), max_slots_per_tenant=1)
    a, b = (adapter_ref(folders / name) for name in "ab")
    held = [bench.acquired(a, "t")]
    bench.exchange.prefetch(b)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    while (again := bench.exchange.acquire(a, tenant="t")) is not None:
        held.append(again)
        assert bench.exchange.acquire(b, tenant="t") is None
        assert len(held) < 100
    bench.exchange.cancel(b)
    held.append(bench.acquired(a, "t"))
    for slot in held:
        bench.exchange.release(slot)
    bench.assert_nothing_held()
    bench.exchange.close()


@pytest.mark.parametrize("keeps", [False, True])
def test_who_went_on_hold_with_bytes_that_are_nowhere_else_comes_back(
    originals: Path, folders: Path, keeps: bool
) -> None:
    """Or its pin would keep the slot from leaving, and the slot's leaving would keep it out."""
    size = adapter_bytes(originals)
    bench = Bench(capacity_bytes=4 * size, host_bytes=size, max_slots_per_tenant=1)
    a, b = (adapter_ref(folders / name) for name in "ab")
    held = [bench.acquired(a, "t")]
    bench.exchange.prefetch(b)  # there is room for one on the host
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    while (again := bench.exchange.acquire(a, tenant="t")) is not None:
        held.append(again)
        assert bench.exchange.acquire(b, tenant="t") is None
        assert len(held) < 100
    if keeps:
        bench.exchange.kept.keep(held[0].digest)
    for slot in held:
        bench.exchange.release(slot)
    came_back = bench.exchange.acquire(a, tenant="t")
    assert (came_back is held[0]) == keeps
    if came_back is not None:
        bench.exchange.kept.let_go(came_back.digest)
        bench.exchange.release(came_back)
    bench.use(b, "t")
    bench.assert_nothing_held()
    bench.exchange.close()


@pytest.mark.parametrize("copy_delay", [0, 3])
@pytest.mark.parametrize("host_slots", [1, 8])
@pytest.mark.parametrize(("device_slots", "bound"), [(1, 1), (3, 1), (4, 2)])
def test_any_traffic_of_tenants_serves_every_waiter(
    originals: Path, folders: Path, device_slots: int, bound: int, host_slots: int, copy_delay: int
) -> None:
    """A loop like the scheduler's, with tenants that share adapters and an operator's pins."""
    rng = random.Random(device_slots + 10 * host_slots + 100 * copy_delay + bound)
    size = adapter_bytes(originals)
    bench = Bench(
        capacity_bytes=device_slots * size,
        host_bytes=host_slots * size,
        copy_delay=copy_delay,
        max_slots_per_tenant=bound,
    )
    exchange, pool = bench.exchange, bench.pool
    waiting: list[tuple[int, AdapterRef, str]] = []
    running: list[AdapterSlot] = []
    pinned: AdapterSlot | None = None
    was_pinned = False
    served: Counter[str] = Counter()
    num_arrived = 0
    while num_arrived < 150 or waiting or running:
        bench.woken.clear()
        exchange.poll()
        for _ in range(min(rng.randint(1, 3), 150 - num_arrived)):
            ref = adapter_ref(folders / rng.choice(NAMES))
            waiting.append((num_arrived, ref, rng.choice(("s", "t"))))
            exchange.prefetch(ref)
            num_arrived += 1
        exchange.expect(ref for _, ref, _ in waiting)
        progress = False
        for item in tuple(waiting):
            _, ref, tenant = item
            slot = exchange.acquire(ref, tenant=tenant) if len(running) < 4 else None
            if slot is None:
                continue
            waiting.remove(item)
            running.append(slot)
            served[tenant] += 1
            progress = True
            if pinned is None and rng.random() < 0.1 and pool.hold(slot):
                pinned, was_pinned = slot, True
        wanted = {ref: tenant for _, ref, tenant in reversed(waiting)}
        exchange.stage(dict(list(reversed(wanted.items()))[:3]))
        exchange.check_integrity()
        # What was pinned counts again once it is not.
        assert was_pinned or max(map(pool.num_of, "st")) <= bound
        if pinned is not None and rng.random() < 0.2:
            pool.unhold(pinned)
            pinned = None
        while running and (rng.random() < 0.5 or not progress):
            exchange.release(running.pop(rng.randrange(len(running))))
            progress = True
        if waiting and not progress and not exchange.num_arriving:
            assert bench.woken.wait(PATIENCE_SECONDS), f"stuck with {waiting}"
    assert served.total() == 150
    if pinned is not None:
        pool.unhold(pinned)
    bench.assert_nothing_held()
    exchange.close()
