"""The pool: slabs never overlap, pins hold, and an adapter under way is left alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.adapters.device_pool import AdapterPool, AdapterSlot
from lorax_serve.engine.adapters.eviction import UseHistory
from lorax_serve.engine.adapters.slab import PackedAdapter
from lorax_serve.engine.adapters.slab_memory import TorchSlabs
from lorax_serve.engine.adapters.slab_space import Extent
from lorax_serve.engine.adapters.slab_tier import ALIGNMENT
from small_pools import CPU, SITES, blank, new_memory, new_pool, place


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
