"""Holes in the pool's memory: the plan for one is the cheapest, found with few looks."""

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.adapters.slab_space import Extent, SlabSpace


@settings(derandomize=True, max_examples=500)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    gaps=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    worths=st.lists(st.integers(0, 5), min_size=8, max_size=8),
    size=st.integers(1, 12),
    kept=st.sets(st.integers(0, 7), max_size=3),
    reserved=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=2),
)
def test_a_plan_is_the_hole_that_loses_least(sizes, gaps, worths, size, kept, reserved) -> None:  # type: ignore[no-untyped-def]
    """Against brute force over every address."""
    extents, end = [], 0
    for gap, each in zip(gaps, sizes, strict=False):
        extents.append(Extent(end + gap, each))
        end += gap + each
    space = SlabSpace(end + 1)
    for extent in extents:
        space.take(extent)
    barred = [Extent(start, num) for start, num in reserved if start + num <= space.capacity]
    values = {
        e: float(worths[i])
        for i, e in enumerate(extents)
        if i not in kept and not any(e.start < r.stop and r.start < e.stop for r in barred)
    }
    holes = []
    for start in range(space.capacity - size + 1):
        hit = [e for e in extents if e.start < start + size and e.stop > start]
        is_barred = any(r.start < start + size and r.stop > start for r in barred)
        if not is_barred and all(e in values for e in hit):
            holes.append((sum(values[e] for e in hit), sum(e.size for e in hit)))
    plan = space.plan(size, values, reserved=barred)
    assert (plan is None) == (not holes)
    if not barred:
        quick = space.plan_from(size, cheapest_first(values), values.get)
        assert (quick is None) == (not holes)
        assert quick is None or sum(values[e] for e in quick.evicted) == min(holes)[0]
    if plan is not None:
        evicted = plan.evicted
        assert (sum(values[e] for e in evicted), sum(e.size for e in evicted)) == min(holes)
        for extent in evicted:
            space.free(extent)
        space.take(plan.extent)
        space.check_integrity()


def cheapest_first(values: dict[Extent, float]) -> Iterator[tuple[Extent, float]]:
    return iter(sorted(values.items(), key=lambda item: item[1]))


def test_few_extents_are_looked_at_where_all_are_equally_large() -> None:
    space = SlabSpace(4000)
    values = {Extent(start, 1): float(start * 7919 % 4001) for start in range(4000)}
    for extent in values:
        space.take(extent)
    num_seen = 0

    def value_of(extent: Extent) -> float | None:
        nonlocal num_seen
        num_seen += 1
        return values[extent] if values[extent] > 100 else None  # some are pinned

    offered = ((extent, value) for extent, value in cheapest_first(values) if value > 100)
    placement = space.plan_from(1, offered, value_of)
    assert placement is not None and [values[e] for e in placement.evicted] == [101.0]
    assert num_seen < 10
