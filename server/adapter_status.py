"""What an operator sees of the adapters: the frontend's records beside the engine's tiers."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final

from lorax_serve.ipc.adapter_report import AdapterReport, AdapterState, TierUse
from lorax_serve.ipc.messages import AdapterAction
from lorax_serve.server.adapter_aliases import Target
from lorax_serve.server.adapter_metrics import AdapterMetrics
from lorax_serve.server.adapter_operations import AdapterOperations
from lorax_serve.server.adapter_records import SHORT_REVISION, AdapterRecord, AdapterRecords
from lorax_serve.server.adapter_resolver import LOCAL, AdapterResolver
from lorax_serve.server.engine import Engine
from lorax_serve.server.errors import ServeError
from lorax_serve.server.schema.admin import AdapterList, AdapterStatus, Bytes, Fetch, Tier
from lorax_serve.server.store.fetches import FetchUnderWay

SHORT_DIGEST: Final = 12  # characters, as in the engine's log
_REPORT_SECONDS: Final = 1.0  # how old a report may be, and how long one is waited for


class AdapterStatuses:
    def __init__(
        self,
        engine: Engine,
        resolver: AdapterResolver,
        records: AdapterRecords,
        operations: AdapterOperations,
        metrics: AdapterMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._resolver = resolver
        self._records = records
        self._operations = operations
        self._metrics = metrics
        self._clock = clock
        self._report: AdapterReport | None = None
        self._labels: dict[str, str] = {}  # in metrics, by digest, as of the last report
        self._others: Sequence[tuple[str, str]] = ()
        self._reported_at = 0.0
        self._asking = asyncio.Lock()

    async def all(self) -> AdapterList:
        """Every adapter that is named here, in use, or kept. Raises ServeError."""
        report = await self._fresh_report()
        states = _by_revision(report)
        stored = frozenset(digest for _, digest in self._resolver.stored())
        names = await self._resolver.folders.names()
        return AdapterList(
            data=[
                self._status(name, target, revision, states, stored)
                for (_, name), (target, revision) in sorted(self._known(names).items())
            ],
            fetches=[_fetch(under_way) for under_way in self._resolver.fetches()],
            tiers={"device": _tier(report.device), "host": _tier(report.host)},
        )

    async def update_metrics(self, others: Sequence[tuple[str, str]] = ()) -> None:
        """Have the metrics tell what the engine says now, or what it said last.

        `others` are revisions that other frontends know, and their labels.
        """
        self._others = others
        for _, label in others:
            self._metrics.introduced(label)
        try:
            async with asyncio.timeout(_REPORT_SECONDS):
                await self._recent_report()
        except (TimeoutError, ServeError):
            return

    async def _recent_report(self) -> AdapterReport:
        """One that is at most `_REPORT_SECONDS` old, however often it is asked for."""
        async with self._asking:
            age = self._clock() - self._reported_at
            if self._report is None or age > _REPORT_SECONDS:
                return await self._fresh_report()
            return self._report

    async def _fresh_report(self) -> AdapterReport:
        report = await self._engine.command(AdapterAction.REPORT)
        assert report is not None, "the engine answers a REPORT with a report"
        labels: dict[str, list[str]] = {}
        own = ((record.revision, record.label) for record in self._records)
        for revision, label in chain(own, self._others):
            labels.setdefault(revision, []).append(label)
        before, self._labels = self._labels, {}

        def label_of(state: AdapterState) -> str | None:
            """Of several names for the same bytes the one that counted before, or their counters
            would take turns.
            """
            names = [label for revision in state.revisions for label in labels.get(revision, ())]
            if not names:
                return None
            known = before.get(state.digest)
            self._labels[state.digest] = known if known in names else min(names)
            return self._labels[state.digest]

        self._metrics.reported(report, label_of)
        self._report, self._reported_at = report, self._clock()
        return report

    def _known(self, names: list[str]) -> dict[tuple[str, str], tuple[Target, str | None]]:
        """By source and name: what it stands for, and the revision it had last."""
        known: dict[tuple[str, str], tuple[Target, str | None]] = {
            (LOCAL, name): (Target(LOCAL, name), None) for name in names
        }
        for target, digest in self._resolver.stored():
            known[target.source, target.adapter_id] = (target, digest)
        for record in self._records:
            key = (record.source, record.name)
            known[key] = (Target(record.source, record.name), record.revision)
        for adapter in self._operations.pinned():
            key = (adapter.source, adapter.ref.name)
            known.setdefault(key, (Target(*key), adapter.ref.revision))
        for name, target in self._resolver.aliases:
            key = (target.source, name)
            known[key] = (target, known[key][1] if key in known else None)
        return known

    def _status(
        self,
        name: str,
        target: Target,
        revision: str | None,
        states: dict[str, AdapterState],
        stored: frozenset[str],
    ) -> AdapterStatus:
        state = None if revision is None else states.get(revision)
        record = self._records.get(target.source, name)
        held = Bytes(
            device=0 if state is None else state.device_bytes,
            host=0 if state is None else state.host_bytes,
        )
        return AdapterStatus(
            name=name,
            source=target.source,
            alias_of=None if target.adapter_id == name else str(target),
            revision=None if revision is None else revision[:SHORT_REVISION],
            digest=None if state is None else state.digest[:SHORT_DIGEST],
            tier=_fastest(held, on_disk=target.source == LOCAL or revision in stored),
            bytes=held,
            rank=None if state is None else state.rank or None,
            pinned=self._operations.is_pinned(target.source, name),
            requests=0 if record is None else record.num_requests,
            requests_in_flight=0 if record is None else record.num_in_flight,
            last_use_seconds=self._age(record),
            loads=0 if state is None else state.num_loads,
            load_seconds=0.0 if state is None else round(state.load_seconds, 6),
            errors={} if record is None else {c.value: n for c, n in record.errors.items()},
        )

    def _age(self, record: AdapterRecord | None) -> float | None:
        """Seconds since it was used last."""
        if record is None or not record.num_requests:
            return None
        return round(self._records.age(record), 3)


def _fetch(under_way: FetchUnderWay) -> Fetch:
    return Fetch(
        name=under_way.adapter_id,
        source=under_way.source,
        bytes=under_way.num_bytes,
        total_bytes=under_way.total_bytes,
        seconds=round(under_way.seconds, 3),
    )


def _by_revision(report: AdapterReport) -> dict[str, AdapterState]:
    return {revision: state for state in report.adapters for revision in state.revisions}


def _fastest(held: Bytes, *, on_disk: bool) -> str:
    if held.device:
        return "device"
    if held.host:
        return "host"
    return "disk" if on_disk else "source"


def _tier(use: TierUse) -> Tier:
    return Tier(used_bytes=use.used_bytes, capacity_bytes=use.capacity_bytes)
