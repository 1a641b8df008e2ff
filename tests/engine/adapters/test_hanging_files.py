"""Folders on file systems that do not answer: who needs them is told, and nobody else waits."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from exchange_bench import NAMES, PATIENCE_SECONDS
from lorax_serve.engine.adapters import files as files_module
from lorax_serve.engine.adapters.eviction import UseHistory
from lorax_serve.engine.adapters.file_watch import FileWatch
from lorax_serve.engine.adapters.files import read_file
from lorax_serve.engine.adapters.host_store import HostStore
from lorax_serve.engine.adapters.loader import AdapterLoader
from lorax_serve.engine.adapters.loader_threads import Job, LeftBehind, LoaderThreads
from lorax_serve.engine.adapters.loads import FailedLoad, Load
from lorax_serve.engine.adapters.read_memory import ReadMemory
from lorax_serve.engine.adapters.reader import AdapterReader
from lorax_serve.engine.lull import no_pause
from lorax_serve.ipc.types import AnyAdapterRef, ErrorCode, MergedAdapters, MergeStrategy
from peft_adapters import WEIGHTS_NAME, adapter_ref
from tiny_llama import SITES


class HangingDisk:
    """Stands in for os.open: weights in the folders it is told of open once it answers."""

    def __init__(self) -> None:
        self.folders: set[str] = set()
        self.num_waiting = 0
        self.answers = threading.Event()
        self._open = os.open

    def __call__(self, path: Any, *args: Any, **options: Any) -> int:
        folder, name = os.path.split(path)
        if folder in self.folders and name == WEIGHTS_NAME:
            self.num_waiting += 1
            assert self.answers.wait(PATIENCE_SECONDS)
        return self._open(path, *args, **options)

    def hang(self, *refs: AnyAdapterRef) -> None:
        self.folders |= {ref.path for ref in refs if not isinstance(ref, MergedAdapters)}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingDisk]:
    made = HangingDisk()
    monkeypatch.setattr(files_module.os, "open", made)
    yield made
    made.answers.set()


class Bench:
    """A loader of one thread that waits a moment for files."""

    def __init__(self) -> None:
        self._woken = threading.Event()
        self._ended: dict[AnyAdapterRef, Load | FailedLoad] = {}
        reader = AdapterReader(
            sites=SITES, max_rank=64, dtype=torch.float32, device_bytes=2**20, host_bytes=2**20
        )
        self.loader = AdapterLoader(
            HostStore(torch.empty(2**18), UseHistory()),
            SITES,
            reader.read,
            is_on_device=lambda digest: False,
            transposed_a=False,
            max_loading=1,
            on_loaded=self._woken.set,
            pause=no_pause,
            silent_seconds=0.1,
        )

    def end_of(self, ref: AnyAdapterRef) -> Load | FailedLoad:
        self.until(lambda: ref in self._ended)
        return self._ended.pop(ref)

    def loads(self, ref: AnyAdapterRef) -> bool:
        self.loader.request(ref)
        return isinstance(self.end_of(ref), Load)

    def fails(self, ref: AnyAdapterRef) -> bool:
        """Whether it does, for want of its files."""
        self.loader.request(ref)
        end = self.end_of(ref)
        if isinstance(end, Load):
            return False
        assert end.error.code is ErrorCode.ADAPTER_UNAVAILABLE
        assert ref.name in end.error.message and "in time" in end.error.message
        return True

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self._ended |= {end.ref: end for end in self.loader.poll()}
            if holds():
                return
            assert time.monotonic() < deadline
            self._woken.wait(0.02)  # as the engine's loop, which looks now and then
            self._woken.clear()


@pytest.fixture
def bench(disk: HangingDisk) -> Iterator[Bench]:
    made = Bench()
    yield made
    disk.answers.set()
    made.loader.close()


@pytest.fixture
def refs(originals: Path) -> dict[str, AnyAdapterRef]:
    return {name: adapter_ref(originals / name) for name in NAMES}


def merge(*parts: AnyAdapterRef, strategy: MergeStrategy = MergeStrategy.TIES) -> MergedAdapters:
    density = 0.5 if strategy.prunes else None
    return MergedAdapters(parts, (1.0,) * len(parts), strategy, density)  # type: ignore[arg-type]


def loader_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("adapter-")}


def test_who_needs_it_is_told_and_its_place_is_given_back(
    bench: Bench, disk: HangingDisk, refs: dict[str, AnyAdapterRef]
) -> None:
    disk.hang(refs["a"])
    assert bench.fails(refs["a"])
    assert bench.loader.num_loading == 0
    for name in "bcd":
        assert bench.loads(refs[name])


def test_while_it_hangs_nobody_waits_there_again(
    bench: Bench, disk: HangingDisk, refs: dict[str, AnyAdapterRef]
) -> None:
    before = loader_threads()
    disk.hang(refs["a"])
    assert all(bench.fails(refs["a"]) for _ in range(5))
    assert bench.fails(merge(refs["b"], refs["a"]))
    assert disk.num_waiting == 1
    both = loader_threads() - before
    assert len(both) == 2, "the one that hangs, and the one in its place"
    disk.answers.set()
    bench.until(lambda: len(loader_threads() & both) == 1)
    assert bench.loads(refs["a"])
    assert bench.loads(merge(refs["b"], refs["a"]))


@pytest.mark.parametrize("strategy", [MergeStrategy.LINEAR, MergeStrategy.TIES])
def test_the_part_of_a_merge_that_hangs_is_to_blame_alone(
    bench: Bench, disk: HangingDisk, refs: dict[str, AnyAdapterRef], strategy: MergeStrategy
) -> None:
    disk.hang(refs["b"])
    assert bench.fails(merge(refs["a"], refs["b"], refs["c"], strategy=strategy))
    assert bench.loads(merge(refs["a"], refs["c"], strategy=strategy))
    assert bench.loads(refs["a"]) and bench.loads(refs["c"])
    assert bench.fails(refs["b"])
    assert disk.num_waiting == 1


def test_only_so_many_threads_are_left_behind(
    bench: Bench,
    disk: HangingDisk,
    refs: dict[str, AnyAdapterRef],
) -> None:
    bench.loader._left_behind = LeftBehind(max_number=2)
    disk.hang(refs["a"], refs["b"], refs["c"])
    assert bench.fails(refs["a"]) and bench.fails(refs["b"])
    assert bench.fails(refs["c"]), "and whoever needs it is told all the same"
    assert bench.fails(refs["c"])
    assert disk.num_waiting == 3
    bench.loader.request(refs["d"])
    disk.answers.set()
    assert isinstance(bench.end_of(refs["d"]), Load)
    assert all(bench.loads(refs[name]) for name in "abc")


def test_one_that_nobody_needs_any_more_is_told_to_nobody(
    bench: Bench, disk: HangingDisk, refs: dict[str, AnyAdapterRef]
) -> None:
    disk.hang(refs["a"])
    bench.loader.request(refs["a"])
    bench.until(lambda: disk.num_waiting == 1)
    bench.loader.cancel(refs["a"])
    assert bench.loads(refs["b"])
    assert bench.fails(refs["a"])
    bench.loader.request(refs["a"])
    bench.loader.cancel(refs["a"])
    assert bench.loader.poll() == []


def test_a_job_that_has_ended_or_not_begun_is_not_left_behind() -> None:
    threads = LoaderThreads(1, "adapter-test")
    gate, began = threading.Event(), threading.Event()

    def work(job: Job) -> None:
        began.set()
        gate.wait(PATIENCE_SECONDS)

    first, second = threads.submit(work), threads.submit(work)
    assert began.wait(PATIENCE_SECONDS)
    assert not threads.abandon(second)
    gate.set()
    threads.close()
    assert not threads.abandon(first)


def test_a_disk_is_silent_once_nothing_is_heard_for_so_long() -> None:
    now = 0.0
    watch = FileWatch(lambda: now)
    assert watch.silent_folder(0) is None
    with watch.over("/a"):
        now = 9.0
        assert watch.silent_folder(10) is None
        now = 10.0
        assert watch.silent_folder(10) == "/a"
        watch.heard()
        now = 19.0
        assert watch.silent_folder(10) is None
        now = 20.0
        assert watch.silent_folder(10) == "/a"
    watch.heard()
    now = 99.0
    assert watch.silent_folder(10) is None


def test_a_large_file_is_heard_of_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(35))
    (tmp_path / "file").write_bytes(content)
    monkeypatch.setattr(files_module, "_PIECE_BYTES", 10)
    heard: list[None] = []

    class Counting(FileWatch):
        def heard(self) -> None:
            heard.append(None)

    read = read_file(tmp_path / "file", max_bytes=100, memory=ReadMemory(0), watch=Counting())
    assert (bytes(read.data), len(heard)) == (content, 4)
