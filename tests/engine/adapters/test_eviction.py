"""What is evicted: the least valuable, as few as suffice, and nothing that does not help."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.adapters.device_pool import AdapterPool
from lorax_serve.engine.adapters.eviction import Resident, UseHistory
from lorax_serve.engine.adapters.eviction_order import EvictionOrder
from lorax_serve.engine.adapters.slab_space import Extent
from lorax_serve.engine.adapters.slab_tier import ALIGNMENT
from small_pools import blank, new_memory, new_pool, place


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
