"""Merges in the exchange: pruned ones one at a time, and nobody else waits for one."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from exchange_bench import PATIENCE_SECONDS
from lorax_serve.engine.adapters import reader as reader_module
from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.adapters.merge import read_merged
from lorax_serve.engine.adapters.slab_memory import TorchSlabs
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.ipc.types import AnyAdapterRef, MergedAdapters, MergeStrategy
from merged_folders import BASE, SITES
from peft_adapters import adapter_ref, build_adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate("abc"):
        build_adapter(root / name, BASE, seed=seed, rank=4, targets=["q_proj"])
    return root


@pytest.fixture
def woken() -> threading.Event:
    return threading.Event()


@pytest.fixture
def exchange(woken: threading.Event) -> Iterator[AdapterExchange]:
    memory = TorchSlabs(
        SITES, capacity_bytes=2**20, dtype=torch.float32, device=torch.device("cpu")
    )
    host_buffer = torch.empty(2**18)
    made = AdapterExchange(
        memory, host_buffer, SITES, max_rank=64, max_loading=1, on_loaded=woken.set
    )
    yield made
    made.close()


class GatedMerges:
    """Stands in for read_merged: holds each pruned merge until its gate is opened."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()

    def __call__(self, merge: MergedAdapters, *args: object, **options: object) -> LoraWeights:
        self.started.append(merge.name)
        self.begun.release()
        assert not merge.strategy.prunes or self.gate.wait(PATIENCE_SECONDS)
        return read_merged(merge, *args, **options)  # type: ignore[arg-type]


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedMerges]:
    gated = GatedMerges()
    monkeypatch.setattr(reader_module, "read_merged", gated)
    yield gated
    gated.gate.set()


@pytest.fixture
def acquired(
    exchange: AdapterExchange, woken: threading.Event
) -> Callable[[AnyAdapterRef], AdapterSlot]:
    """Waits until the adapter is on the device."""

    def acquire(ref: AnyAdapterRef) -> AdapterSlot:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (slot := exchange.acquire(ref)) is None:
            assert woken.wait(deadline - time.monotonic()), "nobody woke the loop"
            woken.clear()
            exchange.poll()
        return slot

    return acquire


def linear(folder: Path, names: str) -> MergedAdapters:
    return MergedAdapters(tuple(adapter_ref(folder / n) for n in names), (1.0,) * len(names))


def ties(folder: Path, names: str) -> MergedAdapters:
    parts = tuple(adapter_ref(folder / name) for name in names)
    return MergedAdapters(parts, (1.0,) * len(names), MergeStrategy.TIES, 0.5)


def test_everybody_passes_pruned_merges_and_those_queue_up(
    exchange: AdapterExchange,
    merges: GatedMerges,
    acquired: Callable[[AnyAdapterRef], AdapterSlot],
    folder: Path,
) -> None:
    first, second = ties(folder, "ab"), ties(folder, "bc")
    exchange.prefetch(first)
    exchange.prefetch(second)
    assert merges.begun.acquire(timeout=PATIENCE_SECONDS)
    # With one loader, and a merge that will not end.
    plain = {acquired(adapter_ref(folder / name)).digest for name in "abc"}
    assert len(plain) == 3
    added = acquired(linear(folder, "ca")).digest
    assert merges.started == ["a,b", "c,a"]
    assert exchange.num_loading == 2
    merges.gate.set()
    digests = {acquired(ref).digest for ref in (second, first)}
    assert merges.started == ["a,b", "c,a", "b,c"]
    assert len(digests | plain | {added}) == 6
    assert exchange.num_loading == 0


def test_equal_merges_are_one(
    exchange: AdapterExchange,
    merges: GatedMerges,
    acquired: Callable[[AnyAdapterRef], AdapterSlot],
    folder: Path,
) -> None:
    merges.gate.set()
    for _ in range(10):
        exchange.prefetch(ties(folder, "ab"))
    slots = {id(acquired(ties(folder, "ab"))) for _ in range(3)}
    assert len(slots) == 1
    assert merges.started == ["a,b"]


def test_an_abandoned_merge_that_is_wanted_again_is_joined(
    exchange: AdapterExchange,
    merges: GatedMerges,
    acquired: Callable[[AnyAdapterRef], AdapterSlot],
    folder: Path,
) -> None:
    """A client that gave up and retries must not start from the beginning."""
    exchange.prefetch(ties(folder, "ab"))
    assert merges.begun.acquire(timeout=PATIENCE_SECONDS)
    exchange.cancel(ties(folder, "ab"))
    exchange.prefetch(ties(folder, "ab"))
    merges.gate.set()
    acquired(ties(folder, "ab"))
    assert merges.started == ["a,b"]


def test_a_merge_that_nobody_waits_for_any_more_never_begins(
    exchange: AdapterExchange,
    merges: GatedMerges,
    acquired: Callable[[AnyAdapterRef], AdapterSlot],
    folder: Path,
) -> None:
    for names in ("ab", "bc", "ca"):
        exchange.prefetch(ties(folder, names))
    assert merges.begun.acquire(timeout=PATIENCE_SECONDS)
    exchange.cancel(ties(folder, "bc"))
    merges.gate.set()
    acquired(ties(folder, "ca"))
    assert merges.started == ["a,b", "c,a"]
