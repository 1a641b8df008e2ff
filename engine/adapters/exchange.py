"""Adapters in three tiers: files, slabs on the host, slabs on the device.

    wanted → loading (loader.py) → on the host (host_store.py) → arriving → on the device
                    ↘ failed                                     (device_pool.py)

The exchange is asked for adapters in the order in which the scheduler would run their sequences,
and that order is the only priority it knows. Whoever asks first takes the room that nobody pins or
waits for. One that finds none is passed by others for a while, in which places mostly come free by
themselves; then one is reserved for it: no new sequence may use what lies there, and nobody else is
given the place. What was placed for a waiter stays until it was had, or two would evict each other.

Failures are remembered until `cancel` says that nobody waits any more; so every waiter hears of
one, and the next request after that tries again. All of this happens on the caller's one thread.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set

import torch

from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.eviction import UseHistory
from lorax_serve.engine.adapters.host_store import HostSlab, HostStore
from lorax_serve.engine.adapters.kept_adapters import KeptAdapters
from lorax_serve.engine.adapters.known_digests import KnownDigests
from lorax_serve.engine.adapters.loader import AdapterLoader
from lorax_serve.engine.adapters.loads import FailedLoad
from lorax_serve.engine.adapters.matrices import BaseWeight
from lorax_serve.engine.adapters.patience import Patience
from lorax_serve.engine.adapters.reader import AdapterReader
from lorax_serve.engine.adapters.slab import PackedAdapter
from lorax_serve.engine.adapters.slab_memory import SlabMemory
from lorax_serve.engine.adapters.tallies import AdapterTallies, ExchangeCounts
from lorax_serve.engine.adapters.waiter_pins import WaiterPins
from lorax_serve.engine.errors import AdapterRejected, RequestError
from lorax_serve.engine.lull import no_pause
from lorax_serve.ipc.types import AnyAdapterRef, ErrorCode
from lorax_serve.kernels.lora import LoraSite

# Copies under way before nothing more is placed ahead of time: an urgent one would wait for them.
_MAX_AHEAD = 4
_NO_ROOM = "the adapters that an operator has pinned leave no room for it"


class AdapterExchange:
    """Brings adapters to the device and lends pinned slots."""

    def __init__(
        self,
        memory: SlabMemory,
        host_buffer: torch.Tensor,
        sites: Sequence[LoraSite],
        *,
        max_rank: int,
        max_loading: int,
        on_loaded: Callable[[], None],
        pause: Callable[[], None] = no_pause,
        base_model: str = "",
        base_weight: BaseWeight | None = None,
    ) -> None:
        """`host_buffer` is [num_elements], of the memory's dtype, all of it for the host tier.
        Loader threads call `on_loaded` when `poll` has something to take; see AdapterReader.
        """
        assert host_buffer.dtype == memory.dtype
        self._history = UseHistory()
        self.tallies = AdapterTallies()
        self.pool = AdapterPool(memory, self._history, self.tallies.left_device)
        self.store = HostStore(host_buffer, self._history, self.tallies.left_host)
        self.counts = ExchangeCounts()
        self._max_rank = max_rank
        reader = AdapterReader(
            sites=tuple(sites),
            max_rank=max_rank,
            dtype=memory.dtype,
            device_bytes=self.pool.capacity_bytes,
            host_bytes=self.store.capacity_bytes,
            base_model=base_model,
            base_weight=base_weight,
            pause=pause,
        )
        self._loader = AdapterLoader(
            self.store,
            reader.sites,
            reader.read,
            is_on_device=lambda digest: self.pool.find(digest) is not None,
            transposed_a=memory.transposed_a,
            max_loading=max_loading,
            on_loaded=on_loaded,
            pause=pause,
        )
        self._digests = KnownDigests()
        self._failed: dict[AnyAdapterRef, RequestError] = {}
        self._pins = WaiterPins(self.pool, self.store)
        self.kept = KeptAdapters(self.pool, self.store)
        self._copying: dict[AdapterSlot, HostSlab] = {}  # what they are copied from, pinned
        self._patience = Patience()  # of those that are on the host and find no room
        self._expected: frozenset[str] = frozenset()  # digests
        self._num_news = 0

    @property
    def num_loading(self) -> int:
        """Adapters somebody waits for that are not on the host yet."""
        return self._loader.num_loading

    @property
    def num_arriving(self) -> int:
        """Adapters being copied to the device."""
        return self.pool.num_arriving

    @property
    def num_waiting_for_room(self) -> int:
        """Adapters somebody waits for that have been brought to the host and no further."""
        return self._pins.num_staged

    @property
    def num_changes(self) -> int:
        """While it stays the same, whoever `acquire` had nothing for would get nothing again."""
        return self._num_news + self.pool.num_changes

    def is_settled(self, ref: AnyAdapterRef) -> bool:
        """Whether the adapter is on the device, or is to have a place there, or failed to load."""
        is_awaited = self.pool.has_reserved(self._digests.get(ref))
        return is_awaited or ref in self._failed or self._resident(ref) is not None

    def prefetch(self, ref: AnyAdapterRef) -> None:
        """A request for the adapter has come: start loading it, unless it is on host or device."""
        if self._resident(ref) is None:
            self._load(ref)

    def expect(self, refs: Iterable[AnyAdapterRef]) -> None:
        """Somebody waits for each of these: they stay on the device while there is other room."""
        self._patience.room_may_have_changed()
        self._expected = frozenset(map(self._digests.get, refs))

    def stage(self, refs: Sequence[AnyAdapterRef]) -> None:
        """These are needed next, in this order: bring them as near as goes without harm. None is
        evicted for a later one, and nothing leaves the device that is pinned."""
        if not self._loader.prefer(refs):
            self._pins.unstage_others(refs)
        self.store.keep({slab.digest for ref in refs if (slab := self._on_host(ref)) is not None})
        kept, num_ahead = set(self._expected), self.num_arriving
        for ref in refs:
            slot = self._resident(ref)
            if slot is None and self._on_host(ref) is None:
                self._load(ref)  # it may have left the host while its requests were waiting
            elif slot is None and num_ahead < _MAX_AHEAD:
                waits = self._patience.waits(ref)
                slot = self._place_for_waiter(ref, kept) if waits else self._place(ref, kept)
                num_ahead += 1
            if slot is not None:
                kept.add(slot.digest)

    def poll(self) -> None:
        """Take over what threads and copies have finished. Never blocks."""
        self._patience.room_may_have_changed()
        for slot in self.pool.poll():
            if (source := self._copying.pop(slot, None)) is not None:
                self.store.unpin(source)
        for load in self._loader.poll():
            self._num_news += 1
            if isinstance(load, FailedLoad):
                self._failed[load.ref] = load.error
                continue
            self.know(load.ref, load.digest)
            if load.slab is not None:
                if load.is_new:
                    self.counts.num_loads += 1
                    self.tallies.loaded(load.digest, load.slab.packed.layout, load.seconds)
                self._pins.take_over(load.ref, load.slab)

    def acquire(self, ref: AnyAdapterRef, *, even_arriving: bool = False) -> AdapterSlot | None:
        """The adapter's slot, pinned until `release`; None while it is on its way or lacks room.

        `even_arriving`: one that is being copied will do, for all that the caller launches next may
        wait for it on the device.
        Raises RequestError if it could not be loaded, or if operators' pins leave no room for it.
        """
        slot = self._resident(ref) or self._place_for_waiter(ref, self._expected)
        if slot is None:
            self._check_room(ref)
            if ref in self._failed:
                # Raised once for every waiter: without this its traceback would grow each time.
                raise self._failed[ref].with_traceback(None)
            self._load(ref)
            return None
        is_leaving = self.pool.is_draining(slot) and not self._pins.is_promised(ref)
        if is_leaving or not (even_arriving or self.pool.is_ready(slot)):
            return None
        self.pool.order_steps_after(slot)
        self._patience.acquired()
        self.pool.pin(slot)
        self._forget_waiter(ref)
        self._record_use(slot)
        return slot

    def digests(self) -> Iterator[tuple[AnyAdapterRef, str]]:
        """Every ref that is remembered, with the content its files had."""
        return iter(self._digests)

    def adopt(self, ref: AnyAdapterRef, packed: PackedAdapter) -> bool:
        """Place an adapter that is packed already; False when pins leave no room for it."""
        assert max(packed.layout.ranks) <= self._max_rank, "kernels have scratch for max_rank"
        self.know(ref, packed.digest)
        return self._resident(ref) is not None or self.pool.place(packed) is not None

    def know(self, ref: AnyAdapterRef, digest: str) -> None:
        """The ref's files have this content."""
        self._digests.know(ref, digest)

    def release(self, slot: AdapterSlot) -> None:
        self.pool.unpin(slot)
        self._patience.room_may_have_changed()

    def cancel(self, ref: AnyAdapterRef) -> None:
        """Nobody waits for the adapter any more: stop loading it, forget its failure."""
        self._failed.pop(ref, None)
        self._forget_waiter(ref)
        self._num_news += 1

    def close(self) -> None:
        """Wait for the threads to end. The exchange is of no use afterwards."""
        self._loader.close()

    def check_integrity(self) -> None:
        """Assert that both tiers' ledgers add up."""
        self.pool.check_integrity()
        self.store.check_integrity()

    def _resident(self, ref: AnyAdapterRef) -> AdapterSlot | None:
        return self.pool.find(self._digests.get(ref))

    def _on_host(self, ref: AnyAdapterRef) -> HostSlab | None:
        return self.store.find(self._digests.get(ref))

    def _check_room(self, ref: AnyAdapterRef) -> None:
        """Raises RequestError for an adapter that would wait for room until somebody unpins."""
        slab = self._on_host(ref)
        if slab is not None and not self.pool.has_room_beside_held(slab.packed.num_bytes):
            raise AdapterRejected(ref.name, ErrorCode.ADAPTER_TOO_LARGE, [_NO_ROOM])

    def _load(self, ref: AnyAdapterRef) -> None:
        if ref not in self._failed and self._on_host(ref) is None:
            self._loader.request(ref)

    def _place_for_waiter(self, ref: AnyAdapterRef, keep: Set[str]) -> AdapterSlot | None:
        """Place the adapter and keep it there until it is acquired; or reserve a place, in time."""
        slab = self._on_host(ref)
        if slab is None:
            return None
        slot = self._resident(ref) or self._place(ref, keep)
        if slot is not None:
            self._pins.promise(ref, slot)
            return slot
        if self._patience.is_out(ref, slab.digest) and self._reserve(slab):
            self._pins.stage(ref, slab)
        return None

    def _reserve(self, slab: HostSlab) -> bool:
        """Whether a place is reserved for the adapter, now or before."""
        num_bytes = slab.packed.num_bytes
        if not self.pool.has_reserved(slab.digest) and self._patience.may_have_place(num_bytes):
            self.pool.reserve(slab.digest, num_bytes, expected=self._expected)
            if not self.pool.has_reserved(slab.digest):
                self._patience.found_no_place(num_bytes)
        return self.pool.has_reserved(slab.digest)

    def _place(self, ref: AnyAdapterRef, keep: Set[str]) -> AdapterSlot | None:
        """Copy the adapter from the host if there is room; it may be there under another name."""
        slab = self._on_host(ref)
        assert slab is not None, "the adapter is not on the host"
        num_bytes = slab.packed.num_bytes
        if not (self._patience.may_have_room(num_bytes) or self.pool.has_reserved(slab.digest)):
            return None
        slot = self.pool.place(slab.packed, keep=keep)
        if slot is None:
            self._patience.found_no_room(num_bytes)
            return None
        self.counts.num_copies += 1
        if not self.pool.is_ready(slot):
            self.store.pin(slab)
            self._copying[slot] = slab
        self._pins.unstage(ref)
        self._patience.forget(ref)
        return slot

    def _record_use(self, slot: AdapterSlot) -> None:
        self._history.record(slot.digest)
        self.pool.touch(slot)
        # Or what is used on the device all the time would look forgotten here.
        slab = self.store.find(slot.digest)
        if slab is not None:
            self.store.touch(slab)

    def _forget_waiter(self, ref: AnyAdapterRef) -> None:
        """Let go of what was held for whoever waited for the adapter."""
        self._loader.cancel(ref)
        if self._pins.break_promise(ref):
            self._patience.room_may_have_changed()
        self._pins.unstage(ref)
        if (digest := self._patience.forget(ref)) is not None:
            self.pool.cancel_reservation(digest)
