"""The pool: slabs never overlap, pins hold, eviction is by value and no more than needed."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.eviction import Resident, UseHistory
from lorax_serve.engine.adapters.eviction_order import EvictionOrder
from lorax_serve.engine.adapters.slab import PackedAdapter, SlabLayout, slab_matrices
from lorax_serve.engine.adapters.slab_memory import TorchSlabs
from lorax_serve.engine.adapters.slab_space import Extent, SlabSpace
from lorax_serve.engine.adapters.slab_tier import ALIGNMENT
from lorax_serve.engine.adapters.tensor_shapes import TensorShapes
from lorax_serve.kernels.lora import BASE_SLOT, Segments
from random_lora import (
    made_up_sites,
    mixed_ranks,
    out_features,
    pack,
    random_weights,
    uniform_ranks,
)

SITES = made_up_sites()
CPU = torch.device("cpu")


def new_pool(capacity_bytes: int) -> AdapterPool:
    return AdapterPool(new_memory(capacity_bytes), UseHistory())


def new_memory(capacity_bytes: int, dtype: torch.dtype = torch.float32) -> TorchSlabs:
    return TorchSlabs(SITES, capacity_bytes=capacity_bytes, dtype=dtype, device=CPU)


def blank(digest: str, num_units: int) -> PackedAdapter:
    """An adapter without targets that takes `num_units` alignment units."""
    untargeted = tuple(-1 for site in SITES for _ in site.targets)
    num_elements = num_units * ALIGNMENT // 4
    layout = SlabLayout(
        a_offsets=(-1,) * len(SITES),
        b_offsets=untargeted,
        ranks=(0,) * len(untargeted),
        num_elements=num_elements,
        transposed_a=True,
        shapes=TensorShapes([]),
        pieces=TensorShapes([]),
        places=(),
    )
    return PackedAdapter(digest, layout, torch.full((num_elements,), float(hash(digest) % 1000)))


def place(pool: AdapterPool, digest: str, num_units: int = 1) -> AdapterSlot:
    slot = pool.place(blank(digest, num_units))
    assert slot is not None
    return slot


def test_the_least_used_goes_first_and_only_as_many_as_needed() -> None:
    history = UseHistory()
    pool = AdapterPool(new_memory(4 * ALIGNMENT), history)
    for digest, num_uses in (("a", 3), ("b", 1), ("c", 2), ("d", 3)):
        slot = place(pool, digest)
        for _ in range(num_uses):
            history.record(digest)
            pool.touch(slot)
    place(pool, "e")
    assert [pool.find(d) is not None for d in "abcde"] == [True, False, True, True, True]


def test_what_is_not_used_any_more_is_overtaken_in_time() -> None:
    history = UseHistory()
    pool = AdapterPool(new_memory(2 * ALIGNMENT), history)
    for _ in range(20):
        history.record("old")
    place(pool, "old")
    for number in range(100):  # each used once, one after another
        history.record(str(number))
        place(pool, str(number))
    assert pool.find("old") is None


def test_a_pinned_slot_stays_and_its_index_and_bytes_with_it() -> None:
    pool = new_pool(2 * ALIGNMENT)
    kept = place(pool, "kept")
    pool.pin(kept)
    for number in range(5):
        place(pool, f"passing {number}")
        assert pool.find("kept") is kept and kept.index == 0
        pool.check_integrity()
    other = pool.find("passing 4")
    assert other is not None
    pool.pin(other)
    assert pool.place(blank("late", 1)) is None
    pool.unpin(other)
    assert pool.place(blank("late", 1)) is not None


def test_neighbours_are_evicted_together_when_only_that_makes_a_hole() -> None:
    pool = new_pool(6 * ALIGNMENT)
    slots = {digest: place(pool, digest) for digest in "abcdef"}
    for digest in "ad":
        pool.pin(slots[digest])
    # b c between the pins, e f after them: either pair makes room, and all are worth the same.
    place(pool, "two", 2)
    assert [pool.find(d) is not None for d in "abcdef"] == [True, False, False, True, True, True]
    assert pool.place(blank("three", 3)) is None
    pool.check_integrity()


def test_what_does_not_help_is_not_evicted() -> None:
    pool = new_pool(5 * ALIGNMENT)
    slots = {digest: place(pool, digest) for digest in "abcde"}
    for digest in "bd":
        pool.pin(slots[digest])
    assert pool.place(blank("two", 2)) is None
    assert pool.num_resident == 5
    pool.unpin(slots["d"])
    place(pool, "two", 2)
    # a is the least recently used of all, but no hole of two can contain it.
    assert [pool.find(d) is not None for d in "abcde"] == [True, True, False, False, True]


def test_use_after_eviction_is_caught() -> None:
    pool = new_pool(ALIGNMENT)
    gone = place(pool, "gone")
    place(pool, "new")
    with pytest.raises(AssertionError, match="evicted"):
        pool.pin(gone)
    with pytest.raises(AssertionError, match="not pinned"):
        pool.unpin(gone)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["place", "place", "place", "pin", "unpin", "reserve", "cancel"]),
        st.integers(0, 11),
        st.integers(1, 5),
    ),
    max_size=60,
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(actions=ACTIONS, capacity=st.integers(1, 12))
def test_any_traffic_keeps_the_ledger_and_the_bytes(
    actions: list[tuple[str, int, int]], capacity: int
) -> None:
    memory = new_memory(capacity * ALIGNMENT)
    pool = AdapterPool(memory, UseHistory())
    pinned: dict[str, AdapterSlot] = {}
    contents: dict[str, PackedAdapter] = {}
    for action, number, num_units in actions:
        digest = f"adapter {number}"
        slot = pool.find(digest)
        if action == "place" and slot is None:
            packed = blank(digest, num_units)
            own = pool._reservations.get(digest)
            others = [each for each in pool._reservations.values() if each is not own]
            walls = {s.extent for s in pinned.values()}
            for each in others:
                walls |= {each.extent, *(slot.extent for slot in each.leaving)}
            if own is not None:  # it may have its reserved place, or another one
                packed = blank(digest, own.extent.size // ALIGNMENT)
                num_units = packed.num_bytes // ALIGNMENT
            # Placing succeeds exactly when evicting what is unpinned can make a hole.
            has_hole = num_units * ALIGNMENT <= max(hole_sizes(pool, walls))
            placed = pool.place(packed)
            assert (placed is not None) == has_hole
            assert own is None or placed is None or digest not in pool._reservations
            contents[digest] = packed
        elif action == "reserve" and slot is None:
            pool.reserve(digest, num_units * ALIGNMENT)
        elif action == "cancel":
            pool.cancel_reservation(digest)
        elif action == "pin" and slot is not None:
            pool.pin(slot)
            pinned[digest] = slot
        elif action == "unpin" and digest in pinned:
            pool.unpin(pinned[digest])
            if pinned[digest].num_pins == 0:
                del pinned[digest]
        pool.check_integrity()
        for held, pinned_slot in pinned.items():
            assert pool.find(held) is pinned_slot
        for digest, packed in contents.items():
            resident = pool.find(digest)
            if resident is not None:
                first = resident.extent.start // 4
                held_bytes = memory._buffer[first : first + packed.layout.num_elements]
                assert torch.equal(held_bytes, packed.slab)
    assert pool.used_bytes <= pool.capacity_bytes


def hole_sizes(pool: AdapterPool, kept: set[Extent]) -> list[int]:
    """Sizes of the gaps between the kept extents, by brute force over units."""
    units = [False] * (pool.capacity_bytes // ALIGNMENT)
    for extent in kept:
        for unit in range(extent.start // ALIGNMENT, extent.stop // ALIGNMENT):
            units[unit] = True
    runs = "".join("x" if taken else "." for taken in units).split("x")
    return [len(run) * ALIGNMENT for run in runs]


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


@settings(derandomize=True, max_examples=200)
@given(
    priorities=st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 3), st.integers(0, 5)), max_size=40
    )
)
def test_the_order_of_eviction_is_that_of_values(priorities: list[tuple[int, int, int]]) -> None:
    order: EvictionOrder[Resident] = EvictionOrder(lambda r: max(0.0, r.priority - 2) * r.num_bytes)
    residents: dict[int, Resident] = {}
    for number, size, priority in priorities:
        resident = residents.setdefault(
            number, Resident(digest=str(number), extent=Extent(0, size), reload_seconds=1.0)
        )
        if priority == 0 and resident in order._entries:
            order.remove(residents.pop(number))
            continue
        resident.priority = float(priority)
        order.put(resident)
    known = [r for r in residents.values() if r in order._entries]
    values = [max(0.0, r.priority - 2) * r.num_bytes for r in order]
    assert values == sorted(values)
    assert {id(r) for r in order} == {id(r) for r in known}


def test_what_is_needed_sooner_is_not_evicted_for_what_is_needed_later() -> None:
    pool = new_pool(2 * ALIGNMENT)
    sooner, other = place(pool, "sooner"), place(pool, "other")
    assert pool.place(blank("later", 1), keep={sooner.digest}) is not None
    assert pool.find("sooner") is sooner and pool.find("other") is not other
    assert pool.place(blank("two", 2), keep={sooner.digest}) is None


def test_a_place_is_reserved_where_the_fewest_pins_are() -> None:
    pool = new_pool(4 * ALIGNMENT)
    slots = {digest: place(pool, digest) for digest in "abcd"}
    for digest in "aabcddd":
        pool.pin(slots[digest])
    pool.reserve("two", 2 * ALIGNMENT)
    assert [d for d in "abcd" if pool.is_draining(slots[d])] == ["b", "c"]
    pool.unpin(slots["b"])
    assert pool.place(blank("two", 2)) is None
    assert pool.place(blank("one", 1)) is None, "b's place is reserved"
    pool.unpin(slots["c"])
    assert pool.place(blank("two", 2)) is not None
    assert not any(pool.is_draining(slot) for slot in slots.values())


def test_a_place_that_others_wait_for_is_reserved_last() -> None:
    pool = new_pool(2 * ALIGNMENT)
    slots = {digest: place(pool, digest) for digest in "ab"}
    for digest in "abb":
        pool.pin(slots[digest])
    pool.reserve("c", ALIGNMENT, expected={"a"})
    assert not pool.is_draining(slots["a"]) and pool.is_draining(slots["b"])


def test_at_most_a_quarter_is_reserved_but_one_place_always() -> None:
    pool = new_pool(8 * ALIGNMENT)
    slots = {digest: place(pool, digest) for digest in "abcdefgh"}
    for slot in slots.values():
        pool.pin(slot)
    for number in range(4):
        pool.reserve(str(number), ALIGNMENT)
    assert sum(pool.is_draining(slot) for slot in slots.values()) == 2
    for number in range(4):
        pool.cancel_reservation(str(number))
    pool.reserve("large", 5 * ALIGNMENT)
    assert sum(pool.is_draining(slot) for slot in slots.values()) == 5


def test_who_is_pinned_for_an_operator_is_waited_for_no_more() -> None:
    pool = new_pool(4 * ALIGNMENT)
    slots = {digest: place(pool, digest) for digest in "abcd"}
    for digest in "abbccdd":
        pool.pin(slots[digest])
    pool.reserve("e", ALIGNMENT)
    assert pool.is_draining(slots["a"])
    assert pool.hold(slots["a"])
    pool.reserve("e", ALIGNMENT)
    assert not pool.is_draining(slots["a"]) and pool.is_draining(slots["b"])


def test_a_delta_adds_each_segments_own_adapter() -> None:
    memory = new_memory(1 << 20)
    pool = AdapterPool(memory, UseHistory())
    adapters = []
    for seed in range(3):
        weights = random_weights(SITES, mixed_ranks(SITES, seed), seed=seed)
        slot = pool.place(pack(weights, SITES))
        assert slot is not None
        adapters.append((slot, weights))
    segments = Segments(
        indptr=(0, 2, 3, 7, 9),
        slots=(adapters[1][0].index, BASE_SLOT, adapters[0][0].index, adapters[2][0].index),
    )
    delta = memory.delta(segments)
    assert delta is not None
    by_slot = {slot.index: weights for slot, weights in adapters}
    for site in SITES:
        x = torch.randn(9, site.in_features)
        y = torch.randn(9, out_features(site))
        expected = y.double()
        for (first, last), index in zip(pairwise(segments.indptr), segments.slots, strict=True):
            for target in site.targets if index != BASE_SLOT else ():
                m = by_slot[index].matrices.get(target.module)
                if m is not None:
                    columns = slice(target.out_start, target.out_start + target.out_features)
                    update = x[first:last].double() @ m.a.double().t() @ m.b.double().t()
                    expected[first:last, columns] += m.scale * update
        delta.shrink(x, site).expand_into(y)
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)


def test_base_rows_alone_need_no_delta() -> None:
    memory = new_memory(1 << 16)
    assert memory.delta(Segments(indptr=(0, 5), slots=(BASE_SLOT,))) is None
    assert memory.delta(Segments(indptr=(0,), slots=())) is None


def test_slabs_round_trip_through_the_pool() -> None:
    memory = new_memory(1 << 20, torch.bfloat16)
    pool = AdapterPool(memory, UseHistory())
    weights = random_weights(SITES, uniform_ranks(SITES, 5))
    packed = pack(weights, SITES, dtype=torch.bfloat16)
    slot = pool.place(packed)
    assert slot is not None
    assert slot.num_bytes % ALIGNMENT == 0 and slot.num_bytes - packed.num_bytes < ALIGNMENT
    a_of = {module: a for module, a, _ in slab_matrices(packed.slab, packed.layout)}
    for site, views in zip(SITES, memory.weights_of(slot.index), strict=True):
        assert views is not None
        for target, view in zip(site.targets, views.targets, strict=True):
            assert torch.equal(views.a_t[:, view.ranks].t(), a_of[target.module])


class SlowMemory(TorchSlabs):
    """Copies that take until they are said to be done."""

    def __init__(self, capacity_bytes: int, max_slots: int = 8) -> None:
        super().__init__(SITES, capacity_bytes=capacity_bytes, dtype=torch.float32, device=CPU)
        self.max_slots = max_slots  # type: ignore[misc]
        self.arrived: set[int] = set()

    def is_written(self, index: int) -> bool:
        return index in self.arrived


def test_an_adapter_under_way_is_neither_used_nor_evicted() -> None:
    memory = SlowMemory(ALIGNMENT)
    pool = AdapterPool(memory, UseHistory())
    slot = place(pool, "a")
    assert pool.num_arriving == 1 and not pool.is_ready(slot)
    pool.poll()
    assert pool.place(blank("b", 1)) is None, "its bytes are still being written"
    memory.arrived.add(slot.index)
    pool.poll()
    assert pool.is_ready(slot) and pool.num_arriving == 0 and slot.num_pins == 0
    memory.arrived.clear()
    assert pool.place(blank("b", 1)) is not None
    assert pool.find("a") is None


def test_no_more_slots_than_the_memory_can_name() -> None:
    memory = SlowMemory(100 * ALIGNMENT, max_slots=2)
    memory.arrived.update(range(3))
    pool = AdapterPool(memory, UseHistory())
    first, second = place(pool, "a"), place(pool, "b")
    pool.pin(second)
    third = place(pool, "c")
    assert pool.find("a") is None and third.index == first.index
    pool.pin(third)
    assert pool.place(blank("d", 1)) is None
    pool.pin(second)
    pool.reserve("d", ALIGNMENT)
    assert pool.is_draining(third) and not pool.is_draining(second)
    pool.unpin(third)
    assert pool.place(blank("e", 1)) is None
    assert pool.place(blank("d", 1)) is not None
    pool.check_integrity()
