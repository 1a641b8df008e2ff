"""An exchange with real threads and real files, and a clock to wait on."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.slab import PackedAdapter
from lorax_serve.engine.adapters.slab_memory import TorchSlabs
from lorax_serve.engine.adapters.slab_tier import ALIGNMENT
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.lull import no_pause
from lorax_serve.ipc.types import AdapterRef
from peft_adapters import adapter_ref
from random_lora import pack
from tiny_llama import SITES

NAMES = tuple("abcdefgh")
PATIENCE_SECONDS = 30  # for a thread that should have answered long ago


def adapter_bytes(originals: Path) -> int:
    """What each of the adapters takes in a pool."""
    weights = read_adapter(adapter_ref(originals / "a"), SITES, max_rank=64)
    return -(-pack(weights, SITES).num_bytes // ALIGNMENT) * ALIGNMENT


class SlowSlabs(TorchSlabs):
    """A memory whose copies take `delay` looks, and read their source only then, as a GPU may."""

    def __init__(self, capacity_bytes: int, delay: int = 0) -> None:
        super().__init__(
            SITES, capacity_bytes=capacity_bytes, dtype=torch.float32, device=torch.device("cpu")
        )
        self._delay = delay
        self._under_way: dict[int, tuple[int, int, PackedAdapter]] = {}

    def write(self, index: int, start: int, packed: PackedAdapter) -> None:
        self._under_way[index] = (self._delay, start, packed)

    def is_written(self, index: int) -> bool:
        if index in self._under_way:
            left, start, packed = self._under_way.pop(index)
            if left:
                self._under_way[index] = (left - 1, start, packed)
                return False
            super().write(index, start, packed)
        return super().is_written(index)

    def order_steps_after(self, index: int) -> None:
        if index in self._under_way:
            _, start, packed = self._under_way.pop(index)
            super().write(index, start, packed)


class Bench:
    """A pool with room for a few adapters, its exchange, and a clock to wait on."""

    def __init__(
        self,
        *,
        capacity_bytes: int,
        host_bytes: int = 1 << 20,
        max_loading: int = 2,
        copy_delay: int = 0,
        max_slots_per_tenant: int | None = None,
        pause: Callable[[], None] = no_pause,
    ) -> None:
        self.woken = threading.Event()
        self.waking_threads: set[str] = set()
        self.memory = SlowSlabs(capacity_bytes, copy_delay)
        self.exchange = AdapterExchange(
            self.memory,
            torch.empty(host_bytes // 4),
            SITES,
            max_rank=64,
            max_loading=max_loading,
            max_slots_per_tenant=max_slots_per_tenant,
            on_loaded=self._wake,
            pause=pause,
        )
        self.pool, self.store = self.exchange.pool, self.exchange.store

    def _wake(self) -> None:
        self.waking_threads.add(threading.current_thread().name)
        self.woken.set()

    def until(self, condition: Callable[[], bool]) -> None:
        """Poll whenever the exchange calls, until the condition holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        self.exchange.poll()
        while not condition():
            if not self.exchange.num_arriving:
                assert self.woken.wait(deadline - time.monotonic()), "nobody woke the loop"
                self.woken.clear()
            self.exchange.poll()

    def use(self, ref: AdapterRef, tenant: str | None = None) -> None:
        """Acquire and release."""
        self.exchange.release(self.acquired(ref, tenant))

    def assert_nothing_held(self) -> None:
        """Nobody waits and nobody runs: nothing may be pinned, loading or kept."""
        self.until(lambda: not (self.exchange.num_loading or self.exchange.num_arriving))
        self.exchange.check_integrity()
        assert self.exchange.num_waiting_for_room == 0
        assert self.pool.pinned_bytes == 0 == self.store.pinned_bytes

    def acquired(self, ref: AdapterRef, tenant: str | None = None) -> AdapterSlot:
        slots: list[AdapterSlot] = []

        def try_acquire() -> bool:
            slot = self.exchange.acquire(ref, tenant=tenant)
            if slot is not None:
                slots.append(slot)
            return slot is not None

        self.until(try_acquire)
        return slots[0]

    def failure(self, ref: AdapterRef) -> RequestError:
        with pytest.raises(RequestError) as caught:
            self.acquired(ref)
        return caught.value


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
