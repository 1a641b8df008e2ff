"""Prometheus metrics by adapter, with a bounded number of labels.

Clients name adapters, so names cannot be labels as they come. A label is what the operator chose (a
folder, an alias) or a short digest, and only so many adapters have their own: those that are used
most. The others count as `other`. An adapter that loses its label takes its series along; counting
as `other` begins at that moment, so that no counter ever falls.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from lorax_serve.ipc.adapter_report import AdapterReport, AdapterState
from lorax_serve.ipc.types import ErrorCode

MAX_LABELS: Final = 64
OTHER: Final = "other"
_REQUESTS: Final = "lorax_adapter_requests"
_ERRORS: Final = "lorax_adapter_errors"
_LOADS: Final = "lorax_adapter_loads"
_LOAD_SECONDS: Final = "lorax_adapter_load_seconds"
_EVICTIONS: Final = "lorax_adapter_evictions"
_BYTES: Final = "lorax_adapter_resident_bytes"
_COUNTERS: Final = (
    (_REQUESTS, "Requests that named the adapter and got it.", ()),
    (_ERRORS, "Requests for the adapter that failed.", ("code",)),
    (_LOADS, "Times the adapter was read from files.", ()),
    (_LOAD_SECONDS, "Seconds that reading it took, waits left out.", ()),
    (_EVICTIONS, "Times the adapter left a tier for another.", ("tier",)),
)

# What the engine counts, and the tier where one belongs to it.
_ENGINE_COUNTS: Final[tuple[tuple[str, tuple[str, ...], Callable[[AdapterState], float]], ...]] = (
    (_LOADS, (), lambda state: state.num_loads),
    (_LOAD_SECONDS, (), lambda state: state.load_seconds),
    (_EVICTIONS, ("device",), lambda state: state.num_device_evictions),
    (_EVICTIONS, ("host",), lambda state: state.num_host_evictions),
)


class AdapterMetrics(Collector):
    def __init__(self, registry: CollectorRegistry, *, max_labels: int = MAX_LABELS) -> None:
        self._max_labels = max_labels
        self._uses: dict[str, int] = {}  # by label, of those that have one
        self._counts: dict[str, defaultdict[tuple[str, ...], float]] = {
            name: defaultdict(float) for name, _, _ in _COUNTERS
        }
        self._bytes: Counter[tuple[str, str]] = Counter()  # by label and tier
        self._tiers: dict[str, tuple[int, int]] = {}  # used and capacity bytes
        self._seen: dict[str, AdapterState] = {}  # of the engine's last report, by digest
        registry.register(self)

    def introduced(self, label: str) -> None:
        """An adapter is here before anybody asks for it: a label, while there are any."""
        if len(self._uses) < self._max_labels:
            self._uses.setdefault(label, 0)

    def requested(self, label: str, num_requests: int) -> None:
        """One more request; `num_requests` are all that there were for this adapter."""
        self._grant(label, num_requests)
        self._counts[_REQUESTS][(self._shown(label),)] += 1

    def failed(self, label: str | None, code: ErrorCode) -> None:
        """`label` is None where no adapter was found."""
        self._counts[_ERRORS][(self._shown(label), code.value)] += 1

    def reported(
        self, report: AdapterReport, label_of: Callable[[AdapterState], str | None]
    ) -> None:
        """What the engine says; `label_of` an adapter is None where nobody here knows it."""
        self._bytes = Counter()
        for state in report.adapters:
            label = self._shown(label_of(state))
            before = self._seen.get(state.digest)
            for name, more, read in _ENGINE_COUNTS:
                was = 0.0 if before is None else read(before)
                # It counts from zero again if the engine had forgotten it meanwhile.
                step = read(state) - was if read(state) >= was else read(state)
                if step:
                    self._counts[name][(label, *more)] += step
            for tier, num_bytes in (("device", state.device_bytes), ("host", state.host_bytes)):
                if num_bytes:
                    self._bytes[label, tier] += num_bytes
        self._seen = {state.digest: state for state in report.adapters}
        self._tiers = {
            "device": (report.device.used_bytes, report.device.capacity_bytes),
            "host": (report.host.used_bytes, report.host.capacity_bytes),
        }

    def collect(self) -> Iterable[Metric]:
        for name, help_text, more in _COUNTERS:
            counter = CounterMetricFamily(name, help_text, labels=("adapter", *more))
            for labels, value in sorted(self._counts[name].items()):
                counter.add_metric(labels, value)
            yield counter
        gauge = GaugeMetricFamily(
            _BYTES, "Bytes the adapter takes of a tier.", labels=("adapter", "tier")
        )
        for labels, num_bytes in sorted(self._bytes.items()):
            gauge.add_metric(labels, num_bytes)
        yield gauge
        used = GaugeMetricFamily("lorax_adapter_tier_used_bytes", "Bytes taken.", labels=("tier",))
        capacity = GaugeMetricFamily(
            "lorax_adapter_tier_capacity_bytes", "Bytes there are.", labels=("tier",)
        )
        for tier, (num_used, num_bytes) in self._tiers.items():
            used.add_metric((tier,), num_used)
            capacity.add_metric((tier,), num_bytes)
        yield from (used, capacity)

    def _shown(self, label: str | None) -> str:
        return label if label is not None and label in self._uses else OTHER

    def _grant(self, label: str, num_requests: int) -> None:
        """Give the adapter a label of its own while there are any, or if it is used twice as often
        as the one used least: less, and equals would take turns.
        """
        if label in self._uses or len(self._uses) < self._max_labels:
            self._uses[label] = max(num_requests, self._uses.get(label, 0))
            return
        least = min(self._uses, key=self._uses.__getitem__)
        if num_requests >= 2 * self._uses[least]:
            del self._uses[least]
            for counts in self._counts.values():
                for labels in [labels for labels in counts if labels[0] == least]:
                    del counts[labels]
            self._uses[label] = num_requests
