"""Adapters that cannot be loaded, or change meanwhile: every waiter hears, nobody else does."""

import random
import shutil
import threading
import traceback
from collections import Counter
from pathlib import Path

import pytest

from exchange_bench import Bench, adapter_bytes, assert_holds
from lorax_serve.engine.adapters import reader as reader_module
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import AdapterRef, ErrorCode
from peft_adapters import WEIGHTS_NAME, adapter_ref, edit_bytes, edit_tensors
from read_adapters import digest_of


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
        sound.add(digest_of(folder))
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
