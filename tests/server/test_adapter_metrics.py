"""Labels: few, never a raw private name, safe in the text format; counters that never fall."""

import random
from collections import Counter

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fake_engine import Tokens
from lorax_serve.ipc.adapter_report import AdapterReport, AdapterState, TierUse
from lorax_serve.ipc.types import AdapterRef, ErrorCode, FinishReason
from lorax_serve.server.adapter_metrics import MAX_LABELS, OTHER, AdapterMetrics
from lorax_serve.server.adapter_records import AdapterRecords
from lorax_serve.server.adapter_resolver import ResolvedAdapter
from lorax_serve.server.errors import ServeError
from wire import Wire

Samples = dict[tuple[str, str, str], float]


def samples(registry: CollectorRegistry) -> Samples:
    """By name, adapter, and code or tier; read by Prometheus's own parser."""
    text = generate_latest(registry).decode()
    return {
        (s.name, s.labels.get("adapter", ""), s.labels.get("code") or s.labels.get("tier", "")): (
            s.value
        )
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def adapter(name: str, *, named: bool = True, revision: str = "") -> ResolvedAdapter:
    ref = AdapterRef(name, "/x", revision or f"{abs(hash(name)):064d}")
    return ResolvedAdapter(ref, "local" if named else "hub", named_by_operator=named)


def state(name: str, **changes: float) -> AdapterState:
    fields = {"device_bytes": 10, "host_bytes": 5, "num_loads": 1, "load_seconds": 0.5}
    counts = {"num_device_evictions": 0, "num_host_evictions": 0, **fields, **changes}
    return AdapterState(digest=f"d {name}", revisions=(name,), rank=8, is_pinned=False, **counts)  # type: ignore[arg-type]


def report(*states: AdapterState) -> AdapterReport:
    return AdapterReport(list(states), TierUse(100, 50), TierUse(200, 60))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_private_names_are_no_labels(registry: CollectorRegistry) -> None:
    records = AdapterRecords(AdapterMetrics(registry))
    with records.use(adapter("acme/secret-project", named=False, revision="ab" * 32)) as record:
        records.failed((record,), ErrorCode.ADAPTER_CORRUPT)
    records.unresolved("hub", "acme/other-secret", ErrorCode.MODEL_NOT_FOUND)
    text = generate_latest(registry).decode()
    assert "secret" not in text
    found = samples(registry)
    assert found["lorax_adapter_requests_total", "ab" * 6, ""] == 1
    assert found["lorax_adapter_errors_total", "ab" * 6, "adapter_corrupt"] == 1
    assert found["lorax_adapter_errors_total", OTHER, "model_not_found"] == 1


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\\", 'x"} 1\nevil 2', "ünï", "a{b=}", "%s"])
def test_metrics_injection(registry: CollectorRegistry, name: str) -> None:
    records = AdapterRecords(AdapterMetrics(registry))
    with records.use(adapter(name)):
        found = samples(registry)
    assert found["lorax_adapter_requests_total", name, ""] == 1
    assert not any("evil" in metric for metric, _, _ in found)


def test_any_number_of_adapters_makes_so_many_labels(registry: CollectorRegistry) -> None:
    records = AdapterRecords(AdapterMetrics(registry), max_records=100)
    for number in range(1000):
        with records.use(adapter(f"a{number}")):
            pass
        records.unresolved("hub", f"unknown{number}", ErrorCode.MODEL_NOT_FOUND)
    assert len(list(records)) == 100
    found = samples(registry)
    assert len({label for _, label, _ in found}) <= MAX_LABELS + 2  # other, and none
    requests = {k: v for k, v in found.items() if k[0] == "lorax_adapter_requests_total"}
    assert sum(requests.values()) == 1000
    assert len(generate_latest(registry)) < 20_000


def test_those_used_most_have_labels_of_their_own_and_no_counter_falls(
    registry: CollectorRegistry,
) -> None:
    records = AdapterRecords(AdapterMetrics(registry, max_labels=4))
    chance = random.Random(3)
    names = [f"a{number}" for number in range(30)]
    weights = [1 / (30 - number) ** 2 for number in range(30)]  # the last ones are the popular
    uses: Counter[str] = Counter()
    before: Samples = {}
    for name in [*names, *chance.choices(names, weights, k=2000)]:
        with records.use(adapter(name)):
            uses[name] += 1
        now = samples(registry)
        for key in before.keys() & now.keys():
            assert now[key] >= before[key], key
        before = now
    labelled = {label for metric, label, _ in before if "requests" in metric} - {OTHER}
    assert {name for name, _ in uses.most_common(2)} <= labelled
    assert len(labelled) == 4


def test_the_engines_counts_go_to_who_has_the_label(registry: CollectorRegistry) -> None:
    metrics = AdapterMetrics(registry)
    metrics.requested("a", 1)

    def label_of(found: AdapterState) -> str | None:
        return {"a": "a", "b": "b"}.get(found.revisions[0])

    for _ in range(2):  # a report that says the same again changes nothing
        metrics.reported(report(state("a"), state("b"), state("c")), label_of)
    found = samples(registry)
    assert found["lorax_adapter_loads_total", "a", ""] == 1
    assert found["lorax_adapter_loads_total", OTHER, ""] == 2
    assert found["lorax_adapter_load_seconds_total", "a", ""] == 0.5
    assert found["lorax_adapter_resident_bytes", "a", "device"] == 10
    assert found["lorax_adapter_resident_bytes", OTHER, "host"] == 10
    assert found["lorax_adapter_tier_used_bytes", "", "host"] == 60
    metrics.reported(
        report(state("a", num_loads=3, num_device_evictions=2, device_bytes=0)), label_of
    )
    found = samples(registry)
    assert found["lorax_adapter_loads_total", "a", ""] == 3
    assert found["lorax_adapter_loads_total", OTHER, ""] == 2
    assert found["lorax_adapter_evictions_total", "a", "device"] == 2
    assert ("lorax_adapter_resident_bytes", "a", "device") not in found
    metrics.reported(report(state("a", num_loads=1)), label_of)  # it had been forgotten there
    assert samples(registry)["lorax_adapter_loads_total", "a", ""] == 4


async def test_the_route(wire: Wire) -> None:
    wire.engine.script = [Tokens([5], FinishReason.LENGTH)]
    for name in ("alice", "alice", "ünï çode", "no-such"):
        await wire.client.post(
            "/generate", json={"inputs": "x", "parameters": {"adapter_id": name}}
        )
    reply = await wire.client.get("/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    found = samples(wire.service.metrics)
    assert found["lorax_adapter_requests_total", "alice", ""] == 2
    assert found["lorax_adapter_requests_total", "ünï çode", ""] == 1
    assert found["lorax_adapter_errors_total", OTHER, "model_not_found"] == 1
    assert "no-such" not in await reply.text()


async def test_the_route_does_not_fail_with_the_engine(wire: Wire) -> None:
    wire.engine.lost = ServeError(ErrorCode.ENGINE_LOST, "The engine has stopped.")
    assert (await wire.client.get("/metrics")).status == 200
