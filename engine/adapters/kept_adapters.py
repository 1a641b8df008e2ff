"""The bytes of adapters whose sequences wait in the middle of their answers.

A sequence that gave its place to another goes on later, on the weights that it began with. Its
adapter's files may have been replaced by then, so the bytes must not leave all tiers meanwhile.
"""

from collections import Counter

from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.host_store import HostSlab, HostStore


class KeptAdapters:
    """Pins on the host for waiting sequences; on the device, for an adapter that is only there."""

    def __init__(self, pool: AdapterPool, store: HostStore) -> None:
        self._pool = pool
        self._store = store
        self._num_waiting: Counter[str] = Counter()  # by digest
        self._on_host: dict[str, HostSlab] = {}
        self._on_device: dict[str, AdapterSlot] = {}

    def keep(self, digest: str) -> None:
        """One more sequence of the adapter, which is on the device, waits.

        Half of the host's memory is left to others: beyond that an adapter is not kept, and its
        sequence fails if its files are replaced before it goes on.
        """
        self._num_waiting[digest] += 1
        if self._num_waiting[digest] > 1:
            return
        slab, slot = self._store.find(digest), self._pool.find(digest)
        if slab is None and slot is not None:
            self._pool.pin(slot)
            self._on_device[digest] = slot
        elif slab is not None and 2 * self._store.pinned_bytes <= self._store.capacity_bytes:
            self._store.pin(slab)
            self._on_host[digest] = slab

    def is_on_device(self, digest: str) -> bool:
        """Whether a pin on the device stays until a sequence that waits has gone on."""
        return digest in self._on_device

    def let_go(self, digest: str) -> None:
        """One of them goes on, or has ended."""
        assert self._num_waiting[digest] > 0, "no sequence of the adapter waits"
        self._num_waiting[digest] -= 1
        if self._num_waiting[digest]:
            return
        del self._num_waiting[digest]
        if digest in self._on_host:
            self._store.unpin(self._on_host.pop(digest))
        if digest in self._on_device:
            self._pool.unpin(self._on_device.pop(digest))
