"""Metrics of several processes as those of one: every sample is the sum of its like."""

from collections.abc import Iterable, Iterator
from itertools import chain

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


def summed(own: CollectorRegistry, others: Iterable[str]) -> bytes:
    """`own` and `others`, which are in Prometheus's text format, in that format."""
    families: dict[str, _Sum] = {}
    parsed = map(text_string_to_metric_families, others)
    for family in chain(own.collect(), chain.from_iterable(parsed)):
        families.setdefault(family.name, _Sum(family)).add(family)
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)


class _Sum:
    def __init__(self, family: Metric) -> None:
        self._family = family
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def add(self, family: Metric) -> None:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            self._values[key] = self._values.get(key, 0.0) + sample.value

    def metric(self) -> Metric:
        metric = Metric(self._family.name, self._family.documentation, self._family.type)
        for (name, labels), value in self._values.items():
            metric.add_sample(name, dict(labels), value)
        return metric


class _Families(Collector):
    def __init__(self, sums: Iterable[_Sum]) -> None:
        self._sums = sums

    def collect(self) -> Iterator[Metric]:
        for each in self._sums:
            yield each.metric()
