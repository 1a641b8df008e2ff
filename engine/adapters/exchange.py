"""Adapters on their way from disk to device.

    wanted → queued → loading (a thread reads, validates, packs) → packed on the host → arriving
                                                              ↘ failed               → resident

A packed adapter goes to the device when `acquire` asks for it, in whatever order the scheduler
asks: who gets scarce room is the scheduler's decision. What has just been placed stays until it has
arrived, and then whoever has waited longest is asked first, so two adapters cannot evict each other
in turn forever. Queued, packed and failed adapters are remembered until `cancel` says that nobody
waits for them any more; so every waiter hears of a failure, and the next request after that tries
again.

Everything but the reading happens on the caller's one thread.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

import structlog
import torch

from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.matrices import BaseWeight
from lorax_serve.engine.adapters.merge import read_merged
from lorax_serve.engine.adapters.slab import PackedAdapter
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import RequestError
from lorax_serve.ipc.types import AnyAdapterRef, ErrorCode, MergedAdapters
from lorax_serve.kernels.lora import LoraSite

log = structlog.get_logger(__name__)

# Adapters on the host, loading or packed, for each thread: one being read, one ready to go.
_STAGED_PER_THREAD = 2
# Digests by ref that are remembered. Forgetting one costs no more than reading it again.
_MAX_KNOWN_REFS = 16384


class AdapterExchange:
    """Loads adapters on threads, places them in the pool, and lends pinned slots."""

    def __init__(
        self,
        pool: AdapterPool,
        sites: Sequence[LoraSite],
        *,
        max_rank: int,
        max_loading: int,
        on_loaded: Callable[[], None],
        base_weight: BaseWeight | None = None,
    ) -> None:
        """`on_loaded` is called from a loader thread whenever `poll` has something to take.

        `base_weight` is passed on to `read_adapter`, and called from loader threads.
        """
        self._pool = pool
        self._sites = tuple(sites)
        self._max_rank = max_rank
        self._max_loading = max_loading
        self._on_loaded = on_loaded
        self._base_weight = base_weight
        # Loading must not take the forward pass's cores. A thread new to torch would inherit the
        # count that a loader sets for itself; asking for it settles this thread's own first.
        torch.get_num_threads()
        self._threads = _loader_threads(max_loading, "adapter-loader")
        # Pruned merges take minutes where files take milliseconds: nobody else waits for one.
        self._pruning_thread = _loader_threads(1, "adapter-pruner")
        self._finished: SimpleQueue[tuple[AnyAdapterRef, PackedAdapter | RequestError]] = (
            SimpleQueue()
        )
        # A ref is in at most one of these four.
        self._queued: dict[AnyAdapterRef, None] = {}  # in order of arrival
        self._loading: dict[AnyAdapterRef, bool] = {}  # whether anybody still wants it
        self._packed: dict[AnyAdapterRef, PackedAdapter] = {}
        self._failed: dict[AnyAdapterRef, RequestError] = {}
        self._digests: dict[AnyAdapterRef, str] = {}  # of every ref that was placed, oldest first

    @property
    def num_resident(self) -> int:
        return self._pool.num_resident

    @property
    def num_loading(self) -> int:
        """Adapters somebody waits for that are not on the host yet."""
        return len(self._queued) + len(self._loading)

    @property
    def num_arriving(self) -> int:
        """Adapters being copied to the device."""
        return self._pool.num_arriving

    @property
    def num_waiting_for_room(self) -> int:
        return len(self._packed)

    def prefetch(self, ref: AnyAdapterRef) -> None:
        """Start reading the adapter unless it is here or on its way."""
        if ref in self._loading:
            self._loading[ref] = True
        elif ref not in self._packed and ref not in self._failed and self._resident(ref) is None:
            self._queued[ref] = None
            self._start_loads()

    def poll(self) -> None:
        """Take over what threads and copies have finished. Never blocks."""
        self._pool.poll()
        while True:
            try:
                ref, outcome = self._finished.get_nowait()
            except Empty:
                break
            if not self._loading.pop(ref):
                continue
            if isinstance(outcome, RequestError):
                self._failed[ref] = outcome
            else:
                self._packed[ref] = outcome
        self._start_loads()

    def acquire(self, ref: AnyAdapterRef) -> AdapterSlot | None:
        """The adapter's slot, pinned until `release`; None while it is loading or lacks room.

        Raises RequestError if it could not be loaded.
        """
        slot = self._resident(ref) or self._place(ref)
        if slot is not None:
            if not self._pool.is_ready(slot):
                return None
            self._pool.pin(slot)
            return slot
        if ref in self._failed:
            # Raised once for every waiter: without this its traceback would grow each time.
            raise self._failed[ref].with_traceback(None)
        self.prefetch(ref)
        return None

    def adopt(self, ref: AnyAdapterRef, packed: PackedAdapter) -> bool:
        """Place an adapter that is packed already; False when pins leave no room for it."""
        assert max(packed.layout.ranks) <= self._max_rank, "kernels have scratch for max_rank"
        self._packed[ref] = packed
        placed = self._place(ref) is not None
        self._packed.pop(ref, None)
        return placed

    def release(self, slot: AdapterSlot) -> None:
        self._pool.unpin(slot)

    def waits_for_room(self, ref: AnyAdapterRef) -> bool:
        """After `acquire` gave None: whether only room on the device is missing."""
        return ref in self._packed

    def cancel(self, ref: AnyAdapterRef) -> None:
        """Nobody waits for the adapter any more: drop what is on the host, forget its failure."""
        self._queued.pop(ref, None)
        self._packed.pop(ref, None)
        self._failed.pop(ref, None)
        if ref in self._loading:
            self._loading[ref] = False
        self._start_loads()

    def close(self) -> None:
        """Wait for the threads to end. The exchange is of no use afterwards."""
        self._queued.clear()
        for threads in (self._threads, self._pruning_thread):
            threads.shutdown(wait=True, cancel_futures=True)

    def _resident(self, ref: AnyAdapterRef) -> AdapterSlot | None:
        digest = self._digests.get(ref)
        return None if digest is None else self._pool.find(digest)

    def _place(self, ref: AnyAdapterRef) -> AdapterSlot | None:
        packed = self._packed.get(ref)
        if packed is None:
            return None
        # The same files under another name may be on the device already.
        slot = self._pool.find(packed.digest) or self._pool.place(packed)
        if slot is not None:
            del self._packed[ref]
            self._remember(ref, packed.digest)
            self._start_loads()
        return slot

    def _remember(self, ref: AnyAdapterRef, digest: str) -> None:
        self._digests.pop(ref, None)
        self._digests[ref] = digest
        if len(self._digests) > _MAX_KNOWN_REFS:
            del self._digests[next(iter(self._digests))]

    def _start_loads(self) -> None:
        """Hand queued adapters to threads, as many as may be read and kept on the host; and one
        pruned merge beside them.
        """
        while (ref := self._next_load()) is not None:
            del self._queued[ref]
            self._loading[ref] = True
            threads = self._pruning_thread if _prunes(ref) else self._threads
            threads.submit(self._load, ref)

    def _next_load(self) -> AnyAdapterRef | None:
        """The longest queued adapter that may start now."""
        num_pruning = sum(map(_prunes, self._loading))
        num_reading = len(self._loading) - num_pruning
        if num_reading + len(self._packed) >= _STAGED_PER_THREAD * self._max_loading:
            return None
        may_prune, may_read = num_pruning == 0, num_reading < self._max_loading
        startable = (ref for ref in self._queued if (may_prune if _prunes(ref) else may_read))
        return next(startable, None)

    # -- on a loader thread

    def _load(self, ref: AnyAdapterRef) -> None:
        try:
            outcome: PackedAdapter | RequestError = self._read_and_pack(ref)
        except RequestError as error:
            outcome = _without_frames(error)
        except Exception:
            log.exception("adapter_load_failed", adapter=ref.name)
            outcome = RequestError(
                ErrorCode.GENERATION_ERROR, f"Adapter {ref.name!r} could not be loaded."
            )
        self._finished.put((ref, outcome))
        self._on_loaded()

    def _read_and_pack(self, ref: AnyAdapterRef) -> PackedAdapter:
        weights = self._read(ref)
        if weights.unknown_config_fields:
            log.warning(
                "adapter_config_fields_not_understood",
                adapter=ref.name,
                fields=weights.unknown_config_fields,
            )
        packed = self._pool.pack(weights)
        log.info("adapter_loaded", adapter=ref.name, num_bytes=packed.num_bytes)
        return packed

    def _read(self, ref: AnyAdapterRef) -> LoraWeights:
        if isinstance(ref, MergedAdapters):
            return read_merged(
                ref, self._sites, max_rank=self._max_rank, base_weight=self._base_weight
            )
        return read_adapter(
            ref, self._sites, max_rank=self._max_rank, base_weight=self._base_weight
        )


def _prunes(ref: AnyAdapterRef) -> bool:
    return isinstance(ref, MergedAdapters) and ref.strategy.prunes


def _loader_threads(number: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        number, thread_name_prefix=name, initializer=torch.set_num_threads, initargs=(1,)
    )


def _without_frames(error: RequestError) -> RequestError:
    """The error without its traceback, which would keep the whole adapter in memory."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)
