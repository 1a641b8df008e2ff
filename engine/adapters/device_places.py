"""The way from the host to the device: who is given a place there, and who waits for one.

Whoever asks first takes the room that nobody pins or waits for. One that finds none is passed by
others for a while, in which places mostly come free by themselves; then one is reserved for it: no
new sequence may use what lies there, and nobody else is given the place. What was placed for a
waiter stays until it was had, or two would evict each other.

Where tenants may fill only so many slots, one that has filled them makes room among its own: an
adapter of its own that nobody uses goes, and after as long a while one that is used gets no new
sequences until it can go.
"""

from collections.abc import Iterable, Set

from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.host_store import HostSlab, HostStore
from lorax_serve.engine.adapters.known_digests import KnownDigests
from lorax_serve.engine.adapters.patience import Patience
from lorax_serve.engine.adapters.tallies import ExchangeCounts
from lorax_serve.engine.adapters.waiter_pins import WaiterPins
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import AnyAdapterRef, ErrorCode

_NO_ROOM = (
    "the adapters that an operator has pinned leave no room for it; unpin one, or raise "
    "--adapter-memory"
)


class DevicePlaces:
    """A `tenant` is whom the adapter is placed for; None, an operator, may fill any number."""

    def __init__(
        self,
        pool: AdapterPool,
        store: HostStore,
        digests: KnownDigests,
        counts: ExchangeCounts,
        *,
        max_slots_per_tenant: int | None,
    ) -> None:
        self._pool = pool
        self._store = store
        self._digests = digests
        self._counts = counts
        self._max_slots_per_tenant = max_slots_per_tenant
        self._pins = WaiterPins(pool, store)
        self._copying: dict[AdapterSlot, HostSlab] = {}  # what they are copied from, pinned
        self._patience = Patience()  # of those that are on the host and find no room
        self._expected: frozenset[str] = frozenset()  # digests

    @property
    def num_waiting(self) -> int:
        """Adapters somebody waits for that have been brought to the host and no further."""
        return self._pins.num_staged

    @property
    def expected(self) -> frozenset[str]:
        """Digests that somebody waits for."""
        return self._expected

    def resident(self, ref: AnyAdapterRef) -> AdapterSlot | None:
        return self._pool.find(self._digests.get(ref))

    def on_host(self, ref: AnyAdapterRef) -> HostSlab | None:
        return self._store.find(self._digests.get(ref))

    def expect(self, refs: Iterable[AnyAdapterRef]) -> None:
        """Somebody waits for each of these: they stay on the device while there is other room."""
        self.room_may_have_changed()
        self._expected = frozenset(map(self._digests.get, refs))

    def room_may_have_changed(self) -> None:
        self._patience.room_may_have_changed()

    def poll(self) -> None:
        """Take over the copies that are done."""
        self.room_may_have_changed()
        for slot in self._pool.poll():
            if (source := self._copying.pop(slot, None)) is not None:
                self._store.unpin(source)

    def came_to_host(self, ref: AnyAdapterRef, slab: HostSlab) -> None:
        """Its loader has pinned the slab, for whoever waits for the adapter."""
        self._pins.take_over(ref, slab)

    def unstage_others(self, refs: Set[AnyAdapterRef]) -> None:
        """See WaiterPins."""
        self._pins.unstage_others(refs)

    def place_ahead(
        self, ref: AnyAdapterRef, keep: Set[str], tenant: str | None
    ) -> AdapterSlot | None:
        """Place an adapter that is on the host, before its turn has come."""
        if self._patience.waits(ref):
            return self.place_for_waiter(ref, keep, tenant)
        return self._place(ref, keep, tenant)

    def place_for_waiter(
        self, ref: AnyAdapterRef, keep: Set[str], tenant: str | None
    ) -> AdapterSlot | None:
        """Place the adapter and keep it there until it is acquired; or reserve a place, in time."""
        slab = self.on_host(ref)
        if slab is None:
            return None
        slot = self.resident(ref) or self._place(ref, keep, tenant)
        if slot is not None:
            self._pins.promise(ref, slot)
            return slot
        if self._patience.is_out(ref, slab.digest) and self._reserve(slab, tenant):
            self._pins.stage(ref, slab)
        return None

    def is_leaving(self, ref: AnyAdapterRef, slot: AdapterSlot) -> bool:
        """Whether the slot makes way for another adapter, and nobody new may use it."""
        return self._pool.is_draining(slot) and not self._pins.is_promised(ref)

    def acquired(self) -> None:
        """Somebody has acquired an adapter."""
        self._patience.acquired()

    def check_room(self, ref: AnyAdapterRef) -> None:
        """Raises RequestError for an adapter that would wait for room until somebody unpins."""
        slab = self.on_host(ref)
        if slab is not None and not self._pool.has_room_beside_held(slab.packed.num_bytes):
            raise AdapterRejected(ref.name, ErrorCode.ADAPTER_TOO_LARGE, [_NO_ROOM])

    def forget_waiter(self, ref: AnyAdapterRef) -> None:
        """Let go of what was held for whoever waited for the adapter."""
        if self._pins.break_promise(ref):
            self.room_may_have_changed()
        self._pins.unstage(ref)
        if (digest := self._patience.forget(ref)) is not None:
            self._pool.cancel_reservation(digest)

    def _place(self, ref: AnyAdapterRef, keep: Set[str], tenant: str | None) -> AdapterSlot | None:
        """Copy the adapter from the host if there is room; it may be there under another name."""
        slab = self.on_host(ref)
        assert slab is not None, "the adapter is not on the host"
        num_bytes = slab.packed.num_bytes
        if not (self._patience.may_have_room(num_bytes) or self._pool.has_reserved(slab.digest)):
            return None
        if not self._may_fill_slot(slab.digest, keep, tenant):
            return None
        slot = self._pool.place(slab.packed, keep=keep, tenant=tenant)
        if slot is None:
            self._patience.found_no_room(num_bytes)
            return None
        self._counts.num_copies += 1
        if not self._pool.is_ready(slot):
            self._store.pin(slab)
            self._copying[slot] = slab
        self._pins.unstage(ref)
        self._patience.forget(ref)
        return slot

    def _may_fill_slot(self, digest: str, keep: Set[str], tenant: str | None) -> bool:
        """Whether the tenant has a slot to fill, now that one of its own has left if need be."""
        while tenant is not None and self._has_filled_all(tenant):
            leaving = self._pool.idle_of(tenant, digest, keep)
            if leaving is None:
                return False
            self._pool.evict(leaving)
        return True

    def _has_filled_all(self, tenant: str) -> bool:
        bound = self._max_slots_per_tenant
        return bound is not None and self._pool.num_of(tenant) >= bound

    def _reserve(self, slab: HostSlab, tenant: str | None) -> bool:
        """Whether a place is reserved for the adapter, now or before."""
        num_bytes = slab.packed.num_bytes
        if self._pool.has_reserved(slab.digest):
            return True
        if tenant is not None and self._has_filled_all(tenant):
            self._pool.make_way_among(tenant, slab.digest)
        elif self._patience.may_have_place(num_bytes):
            self._pool.reserve(slab.digest, num_bytes, expected=self._expected)
            if not self._pool.has_reserved(slab.digest):
                self._patience.found_no_place(num_bytes)
        return self._pool.has_reserved(slab.digest)
