"""Adapters in three tiers: files, slabs on the host, slabs on the device.

    wanted → loading (loader.py) → on the host (host_store.py) → arriving → on the device
                    ↘ failed                                     (device_pool.py)

The exchange is asked for adapters in the order in which the scheduler would run their sequences,
and that order is the only priority it knows.

Failures are remembered until `cancel` says that nobody waits any more; so every waiter hears of
one, and the next request after that tries again. All of this happens on the caller's one thread.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch

from lorax_serve.engine.adapters.device_places import DevicePlaces
from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.eviction import UseHistory
from lorax_serve.engine.adapters.host_store import HostStore
from lorax_serve.engine.adapters.kept_adapters import KeptAdapters
from lorax_serve.engine.adapters.known_digests import KnownDigests
from lorax_serve.engine.adapters.loader import AdapterLoader
from lorax_serve.engine.adapters.loads import FailedLoad
from lorax_serve.engine.adapters.matrices import BaseWeight
from lorax_serve.engine.adapters.reader import AdapterReader
from lorax_serve.engine.adapters.slab import PackedAdapter
from lorax_serve.engine.adapters.slab_memory import SlabMemory
from lorax_serve.engine.adapters.tallies import AdapterTallies, ExchangeCounts
from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.lull import no_pause
from lorax_serve.ipc.types import AnyAdapterRef
from lorax_serve.kernels.lora import LoraSite

# Copies under way before nothing more is placed ahead of time: an urgent one would wait for them.
_MAX_AHEAD = 4


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
        max_slots_per_tenant: int | None = None,
        on_loaded: Callable[[], None],
        pause: Callable[[], None] = no_pause,
        base_model: str = "",
        base_weight: BaseWeight | None = None,
    ) -> None:
        """`host_buffer` is [num_elements], of the memory's dtype, all of it for the host tier.
        Loader threads call `on_loaded` when `poll` has something to take; see AdapterReader and
        DevicePlaces.
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
        self._places = DevicePlaces(
            self.pool,
            self.store,
            self._digests,
            self.counts,
            max_slots_per_tenant=max_slots_per_tenant,
        )
        self.kept = KeptAdapters(self.pool, self.store)
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
        return self._places.num_waiting

    @property
    def num_changes(self) -> int:
        """While it stays the same, whoever `acquire` had nothing for would get nothing again."""
        return self._num_news + self.pool.num_changes

    def is_settled(self, ref: AnyAdapterRef) -> bool:
        """Whether the adapter is on the device, or is to have a place there, or failed to load."""
        is_awaited = self.pool.has_reserved(self._digests.get(ref))
        return is_awaited or ref in self._failed or self._places.resident(ref) is not None

    def prefetch(self, ref: AnyAdapterRef) -> None:
        """A request for the adapter has come: start loading it, unless it is on host or device."""
        if self._places.resident(ref) is None:
            self._load(ref)

    def expect(self, refs: Iterable[AnyAdapterRef]) -> None:
        """Somebody waits for each of these: they stay on the device while there is other room."""
        self._places.expect(refs)

    def stage(self, refs: Mapping[AnyAdapterRef, str | None]) -> None:
        """These are needed next, in this order, each by this tenant (None: an operator): bring
        them as near as goes without harm. None is evicted for a later one, and nothing leaves the
        device that is pinned.
        """
        places = self._places
        if not self._loader.prefer(tuple(refs)):
            places.unstage_others(refs.keys())
        self.store.keep({slab.digest for ref in refs if (slab := places.on_host(ref)) is not None})
        kept, num_ahead = set(places.expected), self.num_arriving
        for ref, tenant in refs.items():
            slot = places.resident(ref)
            if slot is None and places.on_host(ref) is None:
                self._load(ref)  # it may have left the host while its requests were waiting
            elif slot is None and num_ahead < _MAX_AHEAD:
                slot = places.place_ahead(ref, kept, tenant)
                num_ahead += 1
            if slot is not None:
                kept.add(slot.digest)

    def poll(self) -> None:
        """Take over what threads and copies have finished. Never blocks."""
        self._places.poll()
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
                self._places.came_to_host(load.ref, load.slab)

    def acquire(
        self, ref: AnyAdapterRef, *, tenant: str | None = None, even_arriving: bool = False
    ) -> AdapterSlot | None:
        """The adapter's slot, pinned until `release`; None while it is on its way or lacks room.

        `tenant`: whom it is for; None, an operator. `even_arriving`: one that is being copied will
        do, for all that the caller launches next may wait for it on the device.
        Raises RequestError if it could not be loaded, or if operators' pins leave no room for it.
        """
        places = self._places
        slot = places.resident(ref) or places.place_for_waiter(ref, places.expected, tenant)
        if slot is None:
            places.check_room(ref)
            if ref in self._failed:
                # Raised once for every waiter: without this its traceback would grow each time.
                raise self._failed[ref].with_traceback(None)
            self._load(ref)
            return None
        # Who went on hold with bytes that are nowhere else has to come back for them to leave.
        is_leaving = places.is_leaving(ref, slot) and not self.kept.is_on_device(slot.digest)
        if is_leaving or not (even_arriving or self.pool.is_ready(slot)):
            return None
        self.pool.order_steps_after(slot)
        places.acquired()
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
        return self._places.resident(ref) is not None or self.pool.place(packed) is not None

    def know(self, ref: AnyAdapterRef, digest: str) -> None:
        """The ref's files have this content."""
        self._digests.know(ref, digest)

    def release(self, slot: AdapterSlot) -> None:
        self.pool.unpin(slot)
        self._places.room_may_have_changed()

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

    def _load(self, ref: AnyAdapterRef) -> None:
        if ref not in self._failed and self._places.on_host(ref) is None:
            self._loader.request(ref)

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
        self._places.forget_waiter(ref)
