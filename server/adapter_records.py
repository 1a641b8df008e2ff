"""Who uses which adapter: counts by name, for operators and for the metrics.

Of a bounded number of names; what was used longest ago is forgotten.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.adapter_metrics import AdapterMetrics
from lorax_serve.server.adapter_resolver import ResolvedAdapter
from lorax_serve.server.errors import ServeError

MAX_RECORDS: Final = 4096
log = structlog.get_logger(__name__)

# What is wrong with an adapter's files, and will be until they are others.
_REFUSALS: Final = frozenset(
    {
        ErrorCode.ADAPTER_CORRUPT,
        ErrorCode.ADAPTER_INCOMPATIBLE,
        ErrorCode.ADAPTER_NOT_FINITE,
        ErrorCode.ADAPTER_TOO_LARGE,
    }
)
SHORT_REVISION: Final = 12  # characters of a revision that are shown

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class AdapterRecord:
    """One name of one source, since the server's start."""

    name: str
    source: str
    label: str  # in metrics: a name only where the operator chose it
    revision: str  # what the name meant last
    used_at: float  # of the clock
    num_requests: int = 0
    num_in_flight: int = 0
    errors: Counter[ErrorCode] = field(default_factory=Counter)
    refused_revision: str = ""  # the last one that was found unusable, which is logged once


class AdapterRecords:
    def __init__(
        self,
        metrics: AdapterMetrics,
        *,
        max_records: int = MAX_RECORDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._max_records = max_records
        self._clock = clock
        self._records: OrderedDict[tuple[str, str], AdapterRecord] = OrderedDict()

    def __iter__(self) -> Iterator[AdapterRecord]:
        return iter(self._records.values())

    def get(self, source: str, name: str) -> AdapterRecord | None:
        return self._records.get((source, name))

    def age(self, record: AdapterRecord) -> float:
        """Seconds since it was used."""
        return self._clock() - record.used_at

    def note(self, adapter: ResolvedAdapter) -> AdapterRecord:
        """The name means this now."""
        key = (adapter.source, adapter.ref.name)
        record = self._records.get(key)
        if record is None:
            record = AdapterRecord(
                adapter.ref.name, adapter.source, label_of(adapter), "", self._clock()
            )
            self._records[key] = record
            self._forget_one_too_many(key)
        record.revision, record.label = adapter.ref.revision, label_of(adapter)
        self._metrics.introduced(record.label)
        return record

    def forget(self, source: str, name: str) -> None:
        """The name is no more; requests under it may still run."""
        self._records.pop((source, name), None)

    @contextmanager
    def use(self, adapter: ResolvedAdapter) -> Iterator[AdapterRecord]:
        """One request, from its start to its end."""
        record = self.note(adapter)
        self._records.move_to_end((record.source, record.name))
        record.num_requests += 1
        record.num_in_flight += 1
        record.used_at = self._clock()
        self._metrics.requested(record.label, record.num_requests)
        try:
            yield record
        finally:
            record.num_in_flight -= 1
            record.used_at = self._clock()

    def failed(self, records: Iterable[AdapterRecord], code: ErrorCode) -> None:
        """A request for these has failed."""
        for record in records:
            if code in _REFUSALS and record.refused_revision != record.revision:
                record.refused_revision = record.revision
                log.warning(
                    "adapter_refused",
                    adapter=record.label,
                    source=record.source,
                    revision=record.revision[:SHORT_REVISION],
                    code=code.value,
                )
            record.errors[code] += 1
            self._metrics.failed(record.label, code)

    def unresolved(self, source: str, name: str, code: ErrorCode) -> None:
        """A request named this, and got no adapter for it."""
        record = self.get(source, name)
        if record is None:  # a label of its own would be anybody's to make
            self._metrics.failed(None, code)
        else:
            self.failed((record,), code)

    def _forget_one_too_many(self, newest: tuple[str, str]) -> None:
        if len(self._records) > self._max_records:
            for key, record in self._records.items():
                if record.num_in_flight == 0 and key != newest:
                    del self._records[key]
                    return


def label_of(adapter: ResolvedAdapter) -> str:
    """What metrics call it: its name where that is the operator's, else a part of its digest."""
    return adapter.ref.name if adapter.named_by_operator else adapter.ref.revision[:SHORT_REVISION]


async def noting_failures(
    source: AsyncGenerator[T, None],
    failed: Callable[[ErrorCode], None],
) -> AsyncGenerator[T, None]:
    """`source`, with `failed` called where it ends in a ServeError."""
    try:
        async with aclosing(source):
            async for item in source:
                yield item
    except ServeError as error:
        failed(error.code)
        raise
