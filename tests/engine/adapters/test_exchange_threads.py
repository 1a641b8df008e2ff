"""The threads that an exchange reads on: what they do next, and how they end."""

import threading
from collections import Counter
from pathlib import Path

import torch

from exchange_bench import NAMES, PATIENCE_SECONDS, Bench, GatedReader
from peft_adapters import adapter_ref


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
