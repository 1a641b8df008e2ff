"""Prometheus metrics of downloads, by the kind of source: names of adapters are no labels."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from lorax_serve.server.store.fetches import FetchCounts

_COUNTERS: Final[tuple[tuple[str, str, Callable[[FetchCounts], float]], ...]] = (
    (
        "lorax_adapter_fetches",
        "Downloads of adapters that ended, failed ones included.",
        lambda counts: counts.num_fetches,
    ),
    (
        "lorax_adapter_fetched_bytes",
        "Bytes that these downloads brought.",
        lambda counts: counts.num_bytes,
    ),
    (
        "lorax_adapter_fetch_seconds",
        "Seconds that these downloads took.",
        lambda counts: counts.seconds,
    ),
)


class FetchMetrics(Collector):
    def __init__(
        self, registry: CollectorRegistry, counts: Callable[[], Mapping[str, FetchCounts]]
    ) -> None:
        """`counts` are by source."""
        self._counts = counts
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        for name, help_text, read in _COUNTERS:
            counter = CounterMetricFamily(name, help_text, labels=("source",))
            for source, counts in sorted(self._counts().items()):
                counter.add_metric((source,), read(counts))
            yield counter
