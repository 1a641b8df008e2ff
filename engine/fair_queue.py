"""Whose turn it is to be admitted: of all tenants the one that was served least, of its adapters
the one that was served least, of that one's sequences the oldest.

Two levels of clients, so that a tenant gains nothing by using many adapters; who is next on each is
what `virtual_counters.py` is about. Within an adapter of a tenant, first come, first served.
"""

from collections.abc import Container, Iterator, Set
from heapq import heapify, heappop, heappush
from itertools import chain

from lorax_serve.engine.sequence import Sequence
from lorax_serve.engine.virtual_counters import VirtualCounters
from lorax_serve.ipc.types import AnyAdapterRef, MergedAdapters

PROMPT_WEIGHT = 1  # of a prompt token that is computed
OUTPUT_WEIGHT = 2  # of a token that is generated; the paper's ratio
_MAX_SAVED = 4096  # weighted tokens that a tenant may save up: some requests

_Fifo = dict[Sequence, None]


class FairQueue:
    """The sequences that wait."""

    def __init__(self) -> None:
        self._tenants = VirtualCounters(_MAX_SAVED)
        self._adapters: dict[str, VirtualCounters] = {}  # by tenant
        self._fifos: dict[str, dict[str, _Fifo]] = {}  # by tenant and adapter, none of them empty
        self._clients: dict[Sequence, tuple[str, str]] = {}  # tenant and adapter, till it is over
        self._resumed: list[Sequence] = []  # preempted ones, by arrival
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> Iterator[Sequence]:
        """All that wait, in no particular order."""
        yield from self._resumed
        for fifos in self._fifos.values():
            for fifo in fifos.values():
                yield from fifo

    @property
    def tenants(self) -> Set[str]:
        """Those with a sequence that waits."""
        return self._fifos.keys() | {sequence.tenant for sequence in self._resumed}

    def was_served_less(self, tenant: str, other: str) -> bool:
        """By the counters, of which a client that does not wait keeps its own."""
        return self._tenants[tenant] < self._tenants[other]

    def adapters(self, *, besides: Container[str] = ()) -> Iterator[AnyAdapterRef]:
        """Those that sequences wait for, but of these tenants; some may come more than once."""
        heads = (next(iter(fifo)) for fifos in self._fifos.values() for fifo in fifos.values())
        for sequence in chain(self._resumed, heads):
            if sequence.adapter is not None and sequence.tenant not in besides:
                yield sequence.adapter

    def push(self, sequence: Sequence) -> None:
        """A new sequence arrives."""
        tenant, adapter = sequence.tenant, _adapter(sequence.adapter)
        self._clients[sequence] = tenant, adapter
        self._tenants.began(tenant)
        self._adapters.setdefault(tenant, VirtualCounters()).began(adapter)
        self._enqueue(sequence)

    def ended(self, sequence: Sequence) -> None:
        """One that was pushed is over, wherever it stood; if it waited, it has been removed."""
        tenant, adapter = self._clients.pop(sequence)
        self._adapters[tenant].ended(adapter)
        for forgotten in self._tenants.ended(tenant):
            self._adapters.pop(forgotten, None)

    def _enqueue(self, sequence: Sequence) -> None:
        tenant, adapter = self._clients[sequence]
        if tenant not in self._fifos:
            self._tenants.arrive(tenant)
            self._fifos[tenant] = {}
        fifos = self._fifos[tenant]
        if adapter not in fifos:
            self._adapters[tenant].arrive(adapter)
            fifos[adapter] = {}
        fifos[adapter][sequence] = None
        self._num_waiting += 1

    def put_back(self, sequence: Sequence) -> None:
        """A preempted sequence goes first: it has had its turn already."""
        self._resumed.append(sequence)
        self._resumed.sort(key=lambda each: each.arrival)
        self._num_waiting += 1

    def made_room(self, sequence: Sequence) -> None:
        """A sequence gave its place to another tenant's: it waits for its tenant's next turn, and
        goes before those of the tenant that have not run yet."""
        self._enqueue(sequence)
        tenant, adapter = self._clients[sequence]
        fifo = self._fifos[tenant][adapter]
        by_arrival = sorted(fifo, key=lambda each: each.arrival)
        fifo.clear()
        fifo.update(dict.fromkeys(by_arrival))

    def remove(self, sequence: Sequence) -> None:
        """The sequence runs, or has ended."""
        self._num_waiting -= 1
        if sequence in self._resumed:
            self._resumed.remove(sequence)
            return
        tenant, adapter = self._clients[sequence]
        fifos = self._fifos[tenant]
        del fifos[adapter][sequence]
        if not fifos[adapter]:
            del fifos[adapter]
            self._adapters[tenant].leave(adapter)
        if not fifos:
            del self._fifos[tenant]
            self._tenants.leave(tenant)

    def admitted(self, sequence: Sequence, num_prompt_tokens: int) -> None:
        """The sequence, removed already, runs: so much of its prompt is computed, if for the first
        time."""
        tenant, adapter = self._clients[sequence]
        self._tenants.admitted(tenant)
        self._adapters[tenant].admitted(adapter)
        self._charge(sequence, PROMPT_WEIGHT * num_prompt_tokens)

    def generated(self, sequence: Sequence, num_tokens: int) -> None:
        """The sequence was given so many tokens."""
        self._charge(sequence, OUTPUT_WEIGHT * num_tokens)

    def _charge(self, sequence: Sequence, amount: int) -> None:
        tenant, adapter = self._clients[sequence]
        self._tenants.charge(tenant, amount)
        self._adapters[tenant].charge(adapter, amount)

    def candidates(self) -> Iterator[Sequence]:
        """Sequences in the order in which to admit them, counters read as they change.

        A client's next sequence is offered once the one before has been removed; whoever is passed
        by stands aside, with all that wait behind it, until the next call.
        """
        yield from tuple(self._resumed)
        tenants = [
            self._tenant_entry(tenant, self._adapter_entries(tenant)) for tenant in self._fifos
        ]
        heapify(tenants)
        while tenants:
            _, tenant, adapters = heappop(tenants)
            _, adapter, fifo = heappop(adapters)
            offered = next(iter(fifo))
            yield offered
            if fifo and offered not in fifo:
                heappush(adapters, self._adapter_entry(tenant, adapter, fifo))
            if adapters:
                heappush(tenants, self._tenant_entry(tenant, adapters))

    def _tenant_entry(self, tenant: str, adapters: list["_AdapterEntry"]) -> "_TenantEntry":
        (_, _, oldest), _, _ = adapters[0]
        return (True, self._tenants[tenant], oldest), tenant, adapters

    def _adapter_entries(self, tenant: str) -> list["_AdapterEntry"]:
        entries = [
            self._adapter_entry(tenant, adapter, fifo)
            for adapter, fifo in self._fifos[tenant].items()
        ]
        heapify(entries)
        return entries

    def _adapter_entry(self, tenant: str, adapter: str, fifo: _Fifo) -> "_AdapterEntry":
        oldest = next(iter(fifo))
        if oldest.first_scheduled_time is not None:
            return (False, 0, oldest.arrival), adapter, fifo
        return (True, self._adapters[tenant][adapter], oldest.arrival), adapter, fifo


_Turn = tuple[bool, float, int]  # whether it has not run yet, its client's counter, its arrival
_AdapterEntry = tuple[_Turn, str, _Fifo]
_TenantEntry = tuple[_Turn, str, list[_AdapterEntry]]


def _adapter(ref: AnyAdapterRef | None) -> str:
    """What an adapter is here: files, not a name, as one may have many. Another revision or another
    merge is another adapter, for whoever waits for it must not wait behind this one."""
    if ref is None:
        return ""  # the base model
    if isinstance(ref, MergedAdapters):
        return ref.revision
    return f"{ref.path}\n{ref.revision}"
