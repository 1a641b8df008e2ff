"""Sums of metrics, read by Prometheus's own parser."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lorax_serve.server.frontends.sums import summed

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
COUNTS = st.dictionaries(NAMES, st.integers(0, 2**40), max_size=5)


def registry(counts: dict[str, int]) -> CollectorRegistry:
    made = CollectorRegistry()
    counter = Counter("requests", "Says \\ and\nmore.", ["adapter", "tier"], registry=made)
    for name, count in counts.items():
        counter.labels(name, "host").inc(count)
    histogram = Histogram("seconds", "Took.", buckets=(1, 2), registry=made)
    for count in counts.values():
        histogram.observe(count)
    Gauge("bytes", "Taken.", registry=made).set(len(counts))
    return made


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(COUNTS, min_size=1, max_size=4))
def test_every_sample_is_the_sum_of_its_like(processes: list[dict[str, int]]) -> None:
    own, *others = [registry(counts) for counts in processes]
    told = read(summed(own, [generate_latest(other).decode() for other in others]).decode())
    expected: dict[object, float] = {}
    for each in (own, *others):
        for key, value in read(generate_latest(each).decode()).items():
            expected[key] = expected.get(key, 0) + value
    assert told == expected


def test_one_alone_tells_what_it_would_have_told() -> None:
    own = registry({"a": 1, "b": 2})
    kinds = [line for line in generate_latest(own).decode().splitlines() if "# TYPE" in line]
    told = summed(own, []).decode()
    assert read(told) == read(generate_latest(own).decode())
    assert [line for line in told.splitlines() if "# TYPE" in line and "_created" not in line] == [
        line for line in kinds if "_created" not in line
    ]
