"""All that counts, changes and shows adapters while the server runs."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from lorax_serve.server.adapter_metrics import MAX_LABELS, AdapterMetrics
from lorax_serve.server.adapter_operations import AdapterOperations
from lorax_serve.server.adapter_records import AdapterRecords
from lorax_serve.server.adapter_resolver import LOCAL, AdapterResolver
from lorax_serve.server.adapter_status import AdapterStatuses
from lorax_serve.server.engine import Engine
from lorax_serve.server.fetch_metrics import FetchMetrics
from lorax_serve.server.name_hints import NameHints
from lorax_serve.server.sources.local import LocalAdapters


@dataclass(frozen=True)
class AdapterDesk:
    records: AdapterRecords
    operations: AdapterOperations
    statuses: AdapterStatuses
    hints: NameHints


def open_desk(
    engine: Engine,
    resolver: AdapterResolver,
    local: LocalAdapters,
    *,
    base_names: frozenset[str],
    registry: CollectorRegistry,
    max_labels: int = MAX_LABELS,
) -> AdapterDesk:
    """`base_names` are those of the served model; metrics are collected by `registry`, of so
    many adapters one by one.
    """
    FetchMetrics(registry, resolver.fetch_counts)
    metrics = AdapterMetrics(registry, max_labels=max_labels)
    records = AdapterRecords(metrics)
    operations = AdapterOperations(engine, resolver, local, records, base_names=base_names)
    statuses = AdapterStatuses(engine, resolver, records, operations, metrics)

    async def everybodys() -> list[str]:
        aliases = [name for name, target in resolver.aliases if target.source == LOCAL]
        return [*aliases, *await resolver.folders.servable()]

    return AdapterDesk(records, operations, statuses, NameHints(everybodys))
