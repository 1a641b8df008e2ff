"""Adapters of the hub behind the store and the permissions, and what each caller gets of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hub_stand_in import WEIGHTS, Fault, HubStandIn
from lorax_serve.server.errors import ServeError
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.lease import Lease
from lorax_serve.server.store.room import Quota
from lorax_serve.server.verdicts import Verdicts
from set_clock import Clock

ALICE, BOB = "hf_of_alice", "hf_of_bob"
OTHER = WEIGHTS[::-1]


@dataclass
class Site:
    hub: HubStandIn
    adapters: RemoteAdapters
    store: AdapterStore
    clock: Clock
    verdicts: Verdicts

    async def get(self, adapter_id: str, token: str | None = None) -> Lease:
        _, lease = await self.adapters.lease("hub", adapter_id, token)
        return lease

    async def refusal(self, adapter_id: str, token: str | None = None) -> ServeError:
        with pytest.raises(ServeError) as caught:
            await self.get(adapter_id, token)
        return caught.value


def make_site(
    hub: HubStandIn, folder: Path, *, stall_seconds: float = 0.3, **limits: object
) -> Site:
    clock = Clock()
    verdicts = Verdicts(clock)
    store = AdapterStore(folder, Quota(max_bytes=2**30, free_share=0, free_bytes=0), clock)
    source = HubSource(hub.url, stall_seconds=stall_seconds, retries=Retries(first_bound=0.001))
    bounds = FetchLimits(**limits)  # type: ignore[arg-type]
    return Site(
        hub, RemoteAdapters({"hub": source}, store, bounds, verdicts), store, clock, verdicts
    )


def bytes_of(lease: Lease) -> bytes:
    return (lease.path / "adapter_model.safetensors").read_bytes()


@contextmanager
def unreachable(hub: HubStandIn, num_requests: int = 30) -> Iterator[None]:
    hub.faults = [Fault(500, on_info=True) for _ in range(num_requests)]
    yield
    hub.faults = []
