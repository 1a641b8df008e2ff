"""Whose turn it is to be admitted: of all tenants the one that was served least, of its adapters
the one that was served least, of that one's sequences the oldest.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024,
arXiv:2401.00588), on two levels, so that a tenant gains nothing by using many adapters. A counter
is the client's tokens served, weighted; a client that begins to wait is lifted to the least counter
among those that wait, or, if none does, to that of the last one that did: nobody saves up turns by
staying away. But to a tenant a little is left of what it saved: requests come in
bursts, and who was served less for a while would else wait as if the tenant beside it, that never
stops asking, had been as modest.

Where new clients keep coming, each of them with the least counter, one that was served much would
wait for ever; with thousands of adapters that is the usual case. So a client that has seen 16
others admitted goes first once, and those that have are admitted by arrival. That bounds how long
anybody is passed, and costs the paper's bound: where every client always has requests waiting, what
clients of unequal requests are served differs ever more, since turns are equal and not tokens.
"""

from collections.abc import Container, Iterable, Iterator, Set
from heapq import heapify, heappop, heappush
from itertools import chain

from lorax_serve.engine.sequence import Sequence
from lorax_serve.ipc.types import AnyAdapterRef, MergedAdapters

PROMPT_WEIGHT = 1  # of a prompt token that is computed
OUTPUT_WEIGHT = 2  # of a token that is generated; the paper's ratio
_MAX_PASSED = 16  # admissions of others, before it is a waiting client's turn
_MAX_SAVED = 4096  # weighted tokens that a tenant may save up: some requests
_MAX_REMEMBERED = 512  # clients of a level that do not wait

_Fifo = dict[Sequence, None]


class _Counters:
    """The clients of one level, named by strings."""

    def __init__(self, max_saved: int = 0) -> None:
        self._max_saved = max_saved
        self._values: dict[str, int] = {}  # the last one served last
        self._last_to_leave: str | None = None
        self._floor = 0  # that one's counter
        self._num_admitted = 0
        self._waiting_since: dict[str, int] = {}  # in admissions; none of its own since

    def __getitem__(self, client: str) -> int:
        return self._values.get(client, self._floor)

    def __len__(self) -> int:
        return len(self._values)

    def charge(self, client: str, amount: int) -> None:
        self._values[client] = self._values.pop(client, self._floor) + amount
        if client == self._last_to_leave:
            self._floor = self._values[client]

    def arrive(self, client: str, waiting: Iterable[str]) -> None:
        """The client begins to wait, beside those who do already."""
        lowest = min((self[other] for other in waiting), default=self._floor)
        self._values[client] = max(self._values.pop(client, 0), lowest - self._max_saved)
        self._waiting_since[client] = self._num_admitted

    def leave(self, client: str) -> None:
        """None of the client's sequences waits any more."""
        self._last_to_leave = client
        self._floor = self[client]
        del self._waiting_since[client]

    def admitted(self, client: str) -> None:
        """One of the client's sequences has had its turn."""
        self._num_admitted += 1
        if client in self._waiting_since:
            self._waiting_since[client] = self._num_admitted

    def turn(self, client: str, arrival: int) -> "_Turn":
        """Less for who is to go first; the arrival is that of its oldest sequence."""
        if self._num_admitted - self._waiting_since[client] >= _MAX_PASSED:
            return False, arrival, arrival
        return True, self[client], arrival

    def forget(self, waiting: Iterable[str]) -> list[str]:
        """Who is dropped because too many are remembered: the longest unserved of the idle."""
        num_excess = len(self._values) - _MAX_REMEMBERED
        if num_excess <= 0:
            return []
        active = frozenset(waiting)
        idle = [client for client in self._values if client not in active]
        for client in idle[:num_excess]:
            del self._values[client]
        return idle[:num_excess]


class FairQueue:
    """The sequences that wait."""

    def __init__(self) -> None:
        self._tenants = _Counters(_MAX_SAVED)
        self._adapters: dict[str, _Counters] = {}  # by tenant
        self._fifos: dict[str, dict[str, _Fifo]] = {}  # by tenant and adapter, none of them empty
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
        tenant, adapter = _client(sequence)
        if tenant not in self._fifos:
            self._tenants.arrive(tenant, self._fifos)
            self._fifos[tenant] = {}
            for forgotten in self._tenants.forget(self._fifos):
                self._adapters.pop(forgotten, None)
        fifos = self._fifos[tenant]
        if adapter not in fifos:
            counters = self._adapters.setdefault(tenant, _Counters())
            counters.arrive(adapter, fifos)
            fifos[adapter] = {}
            counters.forget(fifos)
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
        self.push(sequence)
        tenant, adapter = _client(sequence)
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
        tenant, adapter = _client(sequence)
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
        tenant, adapter = _client(sequence)
        self._tenants.admitted(tenant)
        self._adapters[tenant].admitted(adapter)
        self._charge(sequence, PROMPT_WEIGHT * num_prompt_tokens)

    def generated(self, sequence: Sequence, num_tokens: int) -> None:
        """The sequence was given so many tokens."""
        self._charge(sequence, OUTPUT_WEIGHT * num_tokens)

    def _charge(self, sequence: Sequence, amount: int) -> None:
        tenant, adapter = _client(sequence)
        self._tenants.charge(tenant, amount)
        if tenant in self._adapters:
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
        oldest = adapters[0][0][2]
        return self._tenants.turn(tenant, oldest), tenant, adapters

    def _adapter_entries(self, tenant: str) -> list["_AdapterEntry"]:
        entries = [
            self._adapter_entry(tenant, adapter, fifo)
            for adapter, fifo in self._fifos[tenant].items()
        ]
        heapify(entries)
        return entries

    def _adapter_entry(self, tenant: str, adapter: str, fifo: _Fifo) -> "_AdapterEntry":
        oldest = next(iter(fifo))
        turn = self._adapters[tenant].turn(adapter, oldest.arrival)
        if oldest.first_scheduled_time is not None:
            turn = (False, oldest.arrival, oldest.arrival)
        return turn, adapter, fifo


_Turn = tuple[bool, int, int]
_AdapterEntry = tuple[_Turn, str, _Fifo]
_TenantEntry = tuple[_Turn, str, list[_AdapterEntry]]


def _client(sequence: Sequence) -> tuple[str, str]:
    """Tenant and adapter: by the folder its files are in, as an adapter may have many names."""
    return sequence.tenant, _adapter(sequence.adapter)


def _adapter(ref: AnyAdapterRef | None) -> str:
    if ref is None:
        return ""  # the base model
    if isinstance(ref, MergedAdapters):
        return "\n".join(part.path for part in ref.parts)
    return ref.path
