"""What is pinned for those that wait for adapters: slabs on the host and slots on the device."""

from collections.abc import Collection

from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.host_store import HostSlab, HostStore
from lorax_serve.ipc.types import AnyAdapterRef


class WaiterPins:
    """At most one slab and one slot for each adapter that is waited for; each holds a pin."""

    def __init__(self, pool: AdapterPool, store: HostStore) -> None:
        self._pool = pool
        self._store = store
        self._staged: dict[AnyAdapterRef, HostSlab] = {}
        self._promised: dict[AnyAdapterRef, AdapterSlot] = {}

    @property
    def num_staged(self) -> int:
        return len(self._staged)

    def stage(self, ref: AnyAdapterRef, slab: HostSlab) -> None:
        """The slab stays on the host until it is placed or nobody waits."""
        if self._staged.get(ref) is not slab:
            self._store.pin(slab)
            self.take_over(ref, slab)

    def take_over(self, ref: AnyAdapterRef, slab: HostSlab) -> None:
        """Like `stage`, for a slab that its loader has pinned already."""
        self.unstage(ref)
        self._staged[ref] = slab

    def unstage(self, ref: AnyAdapterRef) -> None:
        if ref in self._staged:
            self._store.unpin(self._staged.pop(ref))

    def unstage_others(self, refs: Collection[AnyAdapterRef]) -> None:
        """Those that wait for other adapters than these have to take their chances on the host, but
        for whom a place on the device is reserved: nobody else is given that."""
        for ref in self._staged.keys() - set(refs):
            if not self._pool.has_reserved(self._staged[ref].digest):
                self.unstage(ref)

    def is_promised(self, ref: AnyAdapterRef) -> bool:
        return ref in self._promised

    def promise(self, ref: AnyAdapterRef, slot: AdapterSlot) -> None:
        """The slot stays on the device until its waiter has had it."""
        self._pool.pin(slot)
        self.break_promise(ref)
        self._promised[ref] = slot

    def break_promise(self, ref: AnyAdapterRef) -> bool:
        """Whether there was one."""
        if ref not in self._promised:
            return False
        self._pool.unpin(self._promised.pop(ref))
        return True
