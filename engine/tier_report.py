"""What is in which tier, told piece by piece: of thousands of adapters all at once it would keep
every request waiting for longer than a step takes.
"""

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.adapters.tallies import Tally
from lorax_serve.ipc.adapter_report import AdapterReport, AdapterState, TierUse
from lorax_serve.ipc.types import AdapterRef

T = TypeVar("T")

_MAX_SHOWN_REVISIONS = 16  # of one content
_REFS_A_PIECE = 1024
_STATES_A_PIECE = 256


def report_pieces(exchange: AdapterExchange) -> Generator[None, None, AdapterReport]:
    """Yields between pieces, each of a millisecond at most, and returns the report.

    Other work may go on between them; what it changes may be in the report or not.
    """
    pool, store = exchange.pool, exchange.store
    tallies = dict(exchange.tallies)
    revisions: dict[str, list[str]] = {}
    for refs in _pieces(tuple(exchange.digests()), _REFS_A_PIECE):
        for ref, digest in refs:
            known = revisions.setdefault(digest, [])
            if isinstance(ref, AdapterRef):  # a merge is asked for by its parts, not by a revision
                known.append(ref.revision)
        if len(refs) == _REFS_A_PIECE:
            yield
    states = []
    for digests in _pieces(sorted({*tallies, *revisions}), _STATES_A_PIECE):
        for digest in digests:
            is_here = pool.find(digest) is not None or store.find(digest) is not None
            if is_here or digest in tallies:
                tally = tallies.get(digest, Tally())
                states.append(_state(exchange, digest, revisions.get(digest, []), tally))
        if len(digests) == _STATES_A_PIECE:
            yield
    return AdapterReport(
        adapters=states,
        device=TierUse(pool.capacity_bytes, pool.used_bytes),
        host=TierUse(store.capacity_bytes, store.used_bytes),
    )


def _state(
    exchange: AdapterExchange, digest: str, revisions: list[str], tally: Tally
) -> AdapterState:
    slot, slab = exchange.pool.find(digest), exchange.store.find(digest)
    return AdapterState(
        digest=digest,
        revisions=tuple(dict.fromkeys(revisions))[-_MAX_SHOWN_REVISIONS:],
        rank=tally.rank,
        device_bytes=0 if slot is None else slot.num_bytes,
        host_bytes=0 if slab is None else slab.num_bytes,
        is_pinned=slot is not None and exchange.pool.is_held(slot),
        num_loads=tally.num_loads,
        load_seconds=tally.load_seconds,
        num_device_evictions=tally.num_device_evictions,
        num_host_evictions=tally.num_host_evictions,
    )


def _pieces(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """All but the last of this size."""
    source = iter(items)
    while piece := tuple(islice(source, size)):
        yield piece
