"""Which slots of the device are whose.

A slot is the tenant's that it was filled for, as long as the adapter is there and whoever uses it:
who finds an adapter there has taken nothing from anybody.
"""

from collections.abc import Set
from typing import Generic, TypeVar

from lorax_serve.engine.adapters.eviction import Resident

ResidentT = TypeVar("ResidentT", bound=Resident)


class TenantSlots(Generic[ResidentT]):
    def __init__(self) -> None:
        self._slots: dict[str, set[ResidentT]] = {}  # by tenant, none of them empty
        self._tenants: dict[ResidentT, str] = {}

    def filled(self, slot: ResidentT, tenant: str) -> None:
        self._slots.setdefault(tenant, set()).add(slot)
        self._tenants[slot] = tenant

    def left(self, slot: ResidentT) -> None:
        """The adapter is there no longer; it may have been nobody's."""
        tenant = self._tenants.pop(slot, None)
        if tenant is None:
            return
        self._slots[tenant].remove(slot)
        if not self._slots[tenant]:
            del self._slots[tenant]

    def of(self, tenant: str) -> Set[ResidentT]:
        return self._slots.get(tenant, frozenset())

    def check_integrity(self, resident: Set[ResidentT]) -> None:
        """Assert that all of these are among `resident`, each under its tenant."""
        assert self._tenants.keys() <= resident
        by_tenant = {(tenant, slot) for tenant, slots in self._slots.items() for slot in slots}
        assert by_tenant == {(tenant, slot) for slot, tenant in self._tenants.items()}
        assert all(self._slots.values())
