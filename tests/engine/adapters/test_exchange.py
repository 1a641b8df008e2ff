"""The exchange with real threads and real files: every waiter gets its adapter or its error."""

import random
import shutil
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from exchange_bench import (
    NAMES,
    PATIENCE_SECONDS,
    SITES,
    Bench,
    GatedReader,
    adapter_bytes,
    assert_holds,
)
from lorax_serve.engine.adapters import reader as reader_module
from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import AdapterRef, ErrorCode
from peft_adapters import (
    WEIGHTS_NAME,
    adapter_ref,
    edit_bytes,
    edit_config,
    edit_tensors,
)


@pytest.fixture
def bench(originals: Path) -> Iterator[Bench]:
    bench = Bench(capacity_bytes=2 * adapter_bytes(originals))
    yield bench
    bench.exchange.close()
    bench.exchange.check_integrity()
    assert not [t for t in threading.enumerate() if t.name.startswith("adapter-loader")]


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


def test_pinned_adapters_are_waited_for(bench: Bench, folders: Path) -> None:
    held = [bench.acquired(adapter_ref(folders / name)) for name in ("a", "b")]
    ref = adapter_ref(folders / "c")
    assert bench.exchange.acquire(ref) is None
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    assert bench.exchange.acquire(ref) is None
    bench.exchange.release(held[0])
    slot = bench.exchange.acquire(ref)
    assert slot is not None and bench.exchange.num_waiting_for_room == 0
    assert_holds(bench.memory, slot, folders / "c")
    assert_holds(bench.memory, held[1], folders / "b")


def test_users_of_resident_adapters_pass_but_cannot_keep_another_out(
    bench: Bench, folders: Path
) -> None:
    """Somebody uses a, and somebody b, at any time: no slot is ever unpinned by itself."""
    a, b, c = (adapter_ref(folders / name) for name in "abc")
    held = [bench.acquired(a), bench.acquired(b)]
    bench.exchange.prefetch(c)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    passed: list[AdapterRef] = []
    for _ in range(200):
        bench.exchange.poll()
        slot = bench.exchange.acquire(c)
        if slot is not None:
            break
        for ref in (a, b):
            newcomer = bench.exchange.acquire(ref)
            if newcomer is not None:
                held.append(newcomer)
                passed.append(ref)
        bench.exchange.release(held.pop(0))
    assert slot is not None and slot.digest == digest_of(folders / "c")
    # Both for as long as either place may come free, then those of the one that is not to go.
    assert {a, b} == set(passed[:16]) and len(set(passed[17:])) == 1
    bench.exchange.release(slot)
    for each in held:
        bench.exchange.release(each)
    bench.assert_nothing_held()


def test_the_next_ones_are_placed_ahead_but_never_at_the_cost_of_sooner_ones(
    bench: Bench, folders: Path
) -> None:
    refs = [adapter_ref(folders / name) for name in "abcd"]
    for ref in refs:
        bench.use(ref)
    bench.exchange.stage(dict.fromkeys(refs))
    bench.exchange.stage(dict.fromkeys(refs))
    resident = [bench.pool.find(digest_of(folders / name)) is not None for name in "abcd"]
    assert resident == [True, True, False, False]
    held = bench.acquired(refs[2])
    bench.exchange.stage(dict.fromkeys(refs))
    assert held.num_pins == 1 and bench.pool.find(held.digest) is held
    bench.exchange.release(held)
    bench.assert_nothing_held()


def test_an_expected_adapter_stays_while_there_is_other_room(bench: Bench, folders: Path) -> None:
    a, b, c, d = (adapter_ref(folders / name) for name in "abcd")
    for ref in (b, b, a, c, d):  # by its use alone, a would go before b
        bench.use(ref)
    bench.use(b)
    bench.use(a)
    bench.exchange.expect([a])
    bench.use(c)
    assert bench.pool.find(digest_of(folders / "a")) and not bench.pool.find(
        digest_of(folders / "b")
    )
    bench.exchange.expect([a, c])
    assert bench.exchange.acquire(b) is None and bench.exchange.num_arriving == 0
    bench.exchange.expect([])
    bench.use(b)


def test_a_cancelled_reservation_gives_the_place_back(bench: Bench, folders: Path) -> None:
    a, b, c = (adapter_ref(folders / name) for name in "abc")
    held = [bench.acquired(a), bench.acquired(b)]
    bench.exchange.prefetch(c)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    assert bench.exchange.acquire(c) is None
    for _ in range(16):
        assert bench.exchange.acquire(a) is held[0]
    assert bench.exchange.acquire(c) is None
    assert bench.exchange.acquire(b) is None, "its place, with a single pin, is reserved for c"
    assert bench.exchange.acquire(a) is held[0]
    bench.exchange.cancel(c)
    assert bench.exchange.acquire(b) is held[1]


def test_a_place_is_given_back_though_its_refs_content_is_forgotten(
    bench: Bench, folders: Path
) -> None:
    a, b, c = (adapter_ref(folders / name) for name in "abc")
    held = [bench.acquired(a), bench.acquired(b)]
    bench.exchange.prefetch(c)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    assert bench.exchange.acquire(c) is None
    for _ in range(16):
        assert bench.exchange.acquire(a) is held[0]
    assert bench.exchange.acquire(c) is None
    digest = digest_of(folders / "c")
    assert bench.pool.has_reserved(digest)
    for number in range(16384):
        bench.exchange.know(AdapterRef(str(number), "/", str(number)), "another's")
    bench.exchange.cancel(c)
    assert not bench.pool.has_reserved(digest)


def test_every_waiter_hears_of_a_failure_and_the_next_request_tries_again(
    bench: Bench, folders: Path
) -> None:
    ref = adapter_ref(folders / "a")
    good = (folders / "a" / WEIGHTS_NAME).read_bytes()
    edit_bytes(folders / "a", lambda data: data[:-5])
    for _ in range(3):
        error = bench.failure(ref)
        assert isinstance(error, AdapterRejected) and error.code is ErrorCode.ADAPTER_CORRUPT
    edit_bytes(folders / "a", lambda data: good)
    bench.exchange.prefetch(ref)  # somebody new, while old waiters are still to be told
    assert bench.failure(ref).code is ErrorCode.ADAPTER_CORRUPT
    bench.exchange.cancel(ref)  # the last of them has left
    assert_holds(bench.memory, bench.acquired(ref), folders / "a")


def test_a_kept_failure_keeps_no_frames(bench: Bench, folders: Path) -> None:
    ref = adapter_ref(folders / "a")
    edit_bytes(folders / "a", lambda data: data[:-5])
    first = traceback.extract_tb(bench.failure(ref).__traceback__)
    again = bench.failure(ref)
    assert len(traceback.extract_tb(again.__traceback__)) == len(first)
    names = {Path(frame.filename).name for frame in first}
    assert names == {"exchange.py", "exchange_bench.py"}  # ours and theirs
    assert again.__context__ is None and again.__cause__ is None


def test_a_surprise_in_the_loader_fails_its_adapter_only(
    bench: Bench, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_or_explode(ref: AdapterRef, *args: object, **options: object) -> LoraWeights:
        if ref.name == "a":
            raise ZeroDivisionError("a secret path /x/y")
        return read_adapter(ref, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reader_module, "read_adapter", read_or_explode)
    for _ in range(3):  # more often than there are threads
        error = bench.failure(adapter_ref(folders / "a"))
        assert error.code is ErrorCode.GENERATION_ERROR
        assert "secret" not in error.message
        bench.exchange.cancel(adapter_ref(folders / "a"))
    assert_holds(bench.memory, bench.acquired(adapter_ref(folders / "b")), folders / "b")


@pytest.mark.parametrize("tier", ["device", "host"])
def test_an_adapter_larger_than_a_tier_is_refused(folders: Path, tier: str) -> None:
    bench = Bench(
        capacity_bytes=4096 if tier == "device" else 1 << 20,
        host_bytes=4096 if tier == "host" else 1 << 20,
    )
    error = bench.failure(adapter_ref(folders / "a"))
    assert error.code is ErrorCode.ADAPTER_TOO_LARGE and f"{tier} memory" in error.message
    option = "--adapter-memory" if tier == "device" else "--host-adapter-memory"
    assert "4 KiB" in error.message and f" {option}" in error.message
    bench.exchange.cancel(adapter_ref(folders / "a"))
    bench.assert_nothing_held()
    bench.exchange.close()


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


def test_adapters_without_room_do_not_pile_up_on_the_host(
    folders: Path, originals: Path, reader: GatedReader
) -> None:
    """Of a host tier of four, two may be taken ahead of time; the rest waits in its files."""
    reader.gate.set()
    size = adapter_bytes(originals)
    bench = Bench(capacity_bytes=size, host_bytes=4 * size, max_loading=1)
    held = bench.acquired(adapter_ref(folders / "a"))
    refs = [adapter_ref(folders / name) for name in NAMES[1:]]
    for ref in refs:
        bench.exchange.prefetch(ref)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 3)
    for _ in range(4):
        assert reader.started.acquire(timeout=PATIENCE_SECONDS)
    assert not reader.started.acquire(timeout=0.2), "a fifth adapter is being read"
    assert bench.exchange.num_loading == len(refs) - 3
    bench.exchange.release(held)
    for ref in refs:
        bench.use(ref)
    assert sum(reader.counts.values()) == len(NAMES)
    bench.assert_nothing_held()
    bench.exchange.close()


def test_an_adapter_deleted_from_disk_serves_on_until_both_tiers_have_evicted_it(
    folders: Path, originals: Path
) -> None:
    size = adapter_bytes(originals)
    bench = Bench(capacity_bytes=size, host_bytes=2 * size)
    ref = adapter_ref(folders / "a")
    slot = bench.acquired(ref)
    shutil.rmtree(folders / "a")
    assert bench.exchange.acquire(ref) is slot
    bench.exchange.release(slot)
    bench.exchange.release(slot)
    bench.use(adapter_ref(folders / "b"))
    assert bench.pool.find(slot.digest) is None
    bench.use(ref)
    for name in ("b", "c", "d", "e"):
        for _ in range(4):
            bench.use(adapter_ref(folders / name))
    error = bench.failure(ref)
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert str(folders) not in error.message
    bench.exchange.close()


def test_files_rewritten_all_the_time_give_old_or_new_or_a_clean_error(
    bench: Bench, folders: Path, tmp_path: Path
) -> None:
    """Never SIGBUS, never a mixture."""
    folder = folders / "a"
    old = (folder / WEIGHTS_NAME).read_bytes()
    edit_tensors(folder, lambda tensors: {k: v * 2 for k, v in tensors.items()})
    new = (folder / WEIGHTS_NAME).read_bytes()
    sound = set()
    for data in (old, new):
        edit_bytes(folder, lambda _, data=data: data)  # type: ignore[misc]
        sound.add(read_adapter(adapter_ref(folder), SITES, max_rank=64).digest)
    stop = threading.Event()

    def rewrite() -> None:
        rng = random.Random(0)
        while not stop.is_set():
            data = rng.choice((old, new))
            edit_bytes(folder, lambda _: data[: rng.choice((0, 100, len(data) // 2))])  # noqa: B023
            edit_bytes(folder, lambda _: data)  # noqa: B023

    vandal = threading.Thread(target=rewrite)
    vandal.start()
    try:
        seen: Counter[str] = Counter()
        for revision in range(200):
            ref = adapter_ref(folder, revision=str(revision))
            try:
                slot = bench.acquired(ref)
            except AdapterRejected as error:
                seen[error.code.value] += 1
                bench.exchange.cancel(ref)
            else:
                seen[slot.digest] += 1
                bench.exchange.release(slot)
    finally:
        stop.set()
        vandal.join()
    assert seen.keys() <= sound | {ErrorCode.ADAPTER_CORRUPT.value, ErrorCode.ADAPTER_CHANGED.value}
    assert_holds(bench.memory, bench.acquired(adapter_ref(folder, revision="last")), folder)


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
    digests = {
        name: read_adapter(adapter_ref(folders / name), SITES, max_rank=64).digest
        for name in NAMES[:-1]
    }
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


def digest_of(folder: Path) -> str:
    return read_adapter(adapter_ref(folder), SITES, max_rank=64).digest


def leave(
    exchange: AdapterExchange, waiting: list[tuple[int, AdapterRef]], item: tuple[int, AdapterRef]
) -> None:
    waiting.remove(item)
    if all(ref != item[1] for _, ref in waiting):
        exchange.cancel(item[1])


def test_a_thread_goes_on_with_what_is_needed_next_before_the_loop_polls(
    folders: Path, reader: GatedReader
) -> None:
    bench = Bench(capacity_bytes=1 << 20, max_loading=1)
    refs = [adapter_ref(folders / name) for name in NAMES]
    for ref in refs:
        bench.exchange.prefetch(ref)
    bench.exchange.stage(dict.fromkeys(refs[2:5]))
    bench.exchange.poll()
    reader.gate.set()
    for _ in range(2):
        assert reader.started.acquire(timeout=PATIENCE_SECONDS)
    assert not reader.started.acquire(timeout=0.2), "more is read than is in hand"
    assert reader.counts == {"a": 1, "c": 1}
    bench.exchange.close()


def test_closing_waits_for_what_is_being_read(folders: Path, reader: GatedReader) -> None:
    bench = Bench(capacity_bytes=1 << 20, max_loading=1)
    for name in NAMES:
        bench.exchange.prefetch(adapter_ref(folders / name))
    assert reader.started.acquire(timeout=PATIENCE_SECONDS)
    threading.Timer(0.05, reader.gate.set).start()
    bench.exchange.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("adapter-loader")]
    assert sum(reader.counts.values()) == 1


def test_loader_threads_leave_the_threads_of_the_loop_alone(folders: Path) -> None:
    counts = []

    def loop() -> None:  # new to torch, as the engine's thread may be
        bench = Bench(capacity_bytes=1 << 20)
        bench.acquired(adapter_ref(folders / "a"))
        bench.exchange.close()
        counts.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        thread = threading.Thread(target=loop)
        thread.start()
        thread.join()
        assert counts == [3] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_loader_threads_pause_before_they_work_in_python(originals: Path) -> None:
    pauses: Counter[str] = Counter()
    bench = Bench(
        capacity_bytes=1 << 20,
        max_loading=1,
        pause=lambda: pauses.update([threading.current_thread().name]),
    )
    bench.use(adapter_ref(originals / "a"))
    bench.exchange.close()
    assert pauses == {"adapter-loader_0": 5}, "once when read, four times when packed"
