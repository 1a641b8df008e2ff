"""The exchange with real threads and real files: every waiter gets its adapter or its error."""

import random
import shutil
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lorax_serve.engine.adapters import exchange as exchange_module
from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.slab_memory import TorchSlabs
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import AdapterRejected, RequestError
from lorax_serve.ipc.types import AdapterRef, ErrorCode
from peft_adapters import (
    WEIGHTS_NAME,
    adapter_ref,
    build_adapter,
    edit_bytes,
    edit_config,
    edit_tensors,
    lora_sites,
    tiny_llama,
)

BASE = tiny_llama()
SITES = lora_sites(BASE)
NAMES = tuple("abcdefgh")
PATIENCE_SECONDS = 30  # for a thread that should have answered long ago


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(NAMES):
        build_adapter(root / name, BASE, seed=seed, rank=4, targets=["q_proj", "down_proj"])
    return root


@pytest.fixture
def folders(originals: Path, tmp_path: Path) -> Path:
    shutil.copytree(originals, tmp_path / "adapters")
    return tmp_path / "adapters"


def adapter_bytes(originals: Path) -> int:
    """What each of the adapters takes in a pool."""
    pool = new_pool(1 << 20)
    weights = read_adapter(adapter_ref(originals / "a"), SITES, max_rank=64)
    slot = pool.place(pool.pack(weights))
    assert slot is not None
    return slot.num_bytes


def new_pool(capacity_bytes: int) -> AdapterPool:
    return AdapterPool(SITES, new_memory(capacity_bytes))


def new_memory(capacity_bytes: int) -> TorchSlabs:
    return TorchSlabs(
        SITES, capacity_bytes=capacity_bytes, dtype=torch.float32, device=torch.device("cpu")
    )


class Bench:
    """A pool with room for a few adapters, its exchange, and a clock to wait on."""

    def __init__(self, *, capacity_bytes: int, max_loading: int = 2) -> None:
        self.woken = threading.Event()
        self.waking_threads: set[str] = set()
        self.memory = new_memory(capacity_bytes)
        self.pool = AdapterPool(SITES, self.memory)
        self.exchange = AdapterExchange(
            self.pool, SITES, max_rank=64, max_loading=max_loading, on_loaded=self._wake
        )

    def _wake(self) -> None:
        self.waking_threads.add(threading.current_thread().name)
        self.woken.set()

    def until(self, condition: Callable[[], bool]) -> None:
        """Poll whenever the exchange calls, until the condition holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        self.exchange.poll()
        while not condition():
            assert self.woken.wait(deadline - time.monotonic()), "nobody woke the loop"
            self.woken.clear()
            self.exchange.poll()

    def acquired(self, ref: AdapterRef) -> AdapterSlot:
        slots: list[AdapterSlot] = []

        def try_acquire() -> bool:
            slot = self.exchange.acquire(ref)
            if slot is not None:
                slots.append(slot)
            return slot is not None

        self.until(try_acquire)
        return slots[0]

    def failure(self, ref: AdapterRef) -> RequestError:
        with pytest.raises(RequestError) as caught:
            self.acquired(ref)
        return caught.value


@pytest.fixture
def bench(originals: Path) -> Iterator[Bench]:
    bench = Bench(capacity_bytes=2 * adapter_bytes(originals))
    yield bench
    bench.exchange.close()
    bench.pool.check_integrity()
    assert not [t for t in threading.enumerate() if t.name.startswith("adapter-loader")]


class GatedReader:
    """Stands in for read_adapter: counts the reads, and holds each until its gate is opened."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()

    def __call__(self, ref: AdapterRef, *args: object, **options: object) -> LoraWeights:
        self.counts[ref.name] += 1
        self.started.release()
        assert self.gate.wait(PATIENCE_SECONDS)
        return read_adapter(ref, *args, **options)  # type: ignore[arg-type]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> GatedReader:
    reader = GatedReader()
    monkeypatch.setattr(exchange_module, "read_adapter", reader)
    return reader


def assert_holds(memory: TorchSlabs, slot: AdapterSlot, folder: Path) -> None:
    """The slot computes what the folder says."""
    weights = read_adapter(adapter_ref(folder), SITES, max_rank=64)
    assert slot.digest == weights.digest
    for site, views in zip(SITES, memory.weights_of(slot.index), strict=True):
        targeted = [t for t in site.targets if t.module in weights.matrices]
        for target, view in zip(targeted, () if views is None else views.targets, strict=True):
            matrices = weights.matrices[target.module]
            assert views is not None
            assert torch.equal(views.a_t[:, view.ranks].t(), matrices.a)
            assert torch.equal(view.b_t.t(), matrices.b * matrices.scale)


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
    assert (bench.exchange.num_resident, bench.exchange.num_loading) == (1, 0)
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


def test_the_least_recently_used_leaves_and_comes_back(bench: Bench, folders: Path) -> None:
    for name in ("a", "b", "c"):
        bench.exchange.release(bench.acquired(adapter_ref(folders / name)))
    assert bench.exchange.num_resident == 2
    assert bench.exchange.acquire(adapter_ref(folders / "a")) is None
    assert_holds(bench.memory, bench.acquired(adapter_ref(folders / "a")), folders / "a")


def test_pinned_adapters_are_waited_for(bench: Bench, folders: Path) -> None:
    held = [bench.acquired(adapter_ref(folders / name)) for name in ("a", "b")]
    ref = adapter_ref(folders / "c")
    assert not bench.exchange.waits_for_room(ref)
    assert bench.exchange.acquire(ref) is None
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    assert bench.exchange.acquire(ref) is None
    assert bench.exchange.waits_for_room(ref)
    bench.exchange.release(held[0])
    slot = bench.exchange.acquire(ref)
    assert slot is not None and not bench.exchange.waits_for_room(ref)
    assert_holds(bench.memory, slot, folders / "c")
    assert_holds(bench.memory, held[1], folders / "b")


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
    assert all(frame.filename.endswith("exchange.py") for frame in first)  # ours and theirs
    assert again.__context__ is None and again.__cause__ is None


def test_a_surprise_in_the_loader_fails_its_adapter_only(
    bench: Bench, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_or_explode(ref: AdapterRef, *args: object, **options: object) -> LoraWeights:
        if ref.name == "a":
            raise ZeroDivisionError("a secret path /x/y")
        return read_adapter(ref, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(exchange_module, "read_adapter", read_or_explode)
    for _ in range(3):  # more often than there are threads
        error = bench.failure(adapter_ref(folders / "a"))
        assert error.code is ErrorCode.GENERATION_ERROR
        assert "secret" not in error.message
        bench.exchange.cancel(adapter_ref(folders / "a"))
    assert_holds(bench.memory, bench.acquired(adapter_ref(folders / "b")), folders / "b")


def test_an_adapter_larger_than_the_pool_is_refused(folders: Path) -> None:
    bench = Bench(capacity_bytes=4096)
    error = bench.failure(adapter_ref(folders / "a"))
    assert error.code is ErrorCode.ADAPTER_TOO_LARGE
    bench.exchange.close()


def test_equal_files_share_a_slot(bench: Bench, folders: Path) -> None:
    shutil.copytree(folders / "a", folders / "twin")
    first = bench.acquired(adapter_ref(folders / "a"))
    assert bench.acquired(adapter_ref(folders / "twin")) is first
    renamed = adapter_ref(folders / "a", name="other", revision="2")
    assert bench.acquired(renamed) is first
    assert first.num_pins == 3 and bench.exchange.num_resident == 1


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
    bench.until(lambda: bench.exchange.num_loading == 0)
    assert bench.exchange.num_waiting_for_room == 0 == bench.exchange.num_resident
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
    reader.gate.set()
    bench = Bench(capacity_bytes=adapter_bytes(originals), max_loading=1)
    held = bench.acquired(adapter_ref(folders / "a"))
    refs = [adapter_ref(folders / name) for name in NAMES[1:]]
    for ref in refs:
        bench.exchange.prefetch(ref)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 2)
    for _ in range(3):
        assert reader.started.acquire(timeout=PATIENCE_SECONDS)
    assert not reader.started.acquire(timeout=0.2), "a fourth adapter is being read"
    assert bench.exchange.num_loading == len(refs) - 2
    bench.exchange.release(held)
    for ref in refs:
        bench.exchange.release(bench.acquired(ref))
    assert sum(reader.counts.values()) == len(NAMES)
    bench.exchange.close()


def test_an_adapter_deleted_from_disk_serves_on_until_it_is_evicted(
    bench: Bench, folders: Path
) -> None:
    ref = adapter_ref(folders / "a")
    slot = bench.acquired(ref)
    shutil.rmtree(folders / "a")
    assert bench.exchange.acquire(ref) is slot
    bench.exchange.release(slot)
    bench.exchange.release(slot)
    for name in ("b", "c"):
        bench.exchange.release(bench.acquired(adapter_ref(folders / name)))
    error = bench.failure(ref)
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert str(folders) not in error.message


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
    assert seen.keys() <= sound | {ErrorCode.ADAPTER_CORRUPT.value}
    assert_holds(bench.memory, bench.acquired(adapter_ref(folder, revision="last")), folder)


@pytest.mark.parametrize("seed", range(4))
def test_any_traffic_serves_every_waiter(originals: Path, folders: Path, seed: int) -> None:
    """A loop like the scheduler's, with waiters that give up, through a pool for three adapters."""
    rng = random.Random(seed)
    edit_bytes(folders / "h", lambda data: data[:-1])
    bench = Bench(capacity_bytes=3 * adapter_bytes(originals), max_loading=2)
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
        for item in [item for item in waiting if rng.random() < 0.01]:
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
                waiting.remove(item)
                running.append(slot)
                num_served += 1
                progress = True
        bench.pool.check_integrity()
        while running and (rng.random() < 0.5 or not progress):
            exchange.release(running.pop(rng.randrange(len(running))))
            progress = True
        if waiting and not progress:
            assert bench.woken.wait(PATIENCE_SECONDS), f"stuck with {waiting}"
    assert num_served + num_failed + num_left == 150
    assert num_served > num_failed + num_left
    assert exchange.num_loading == 0 == exchange.num_waiting_for_room
    exchange.close()


def leave(
    exchange: AdapterExchange, waiting: list[tuple[int, AdapterRef]], item: tuple[int, AdapterRef]
) -> None:
    waiting.remove(item)
    if all(ref != item[1] for _, ref in waiting):
        exchange.cancel(item[1])


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
