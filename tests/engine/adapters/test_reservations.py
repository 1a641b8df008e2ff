"""Places reserved for adapters that find none: whose they are, and who is kept out."""

from lorax_serve.engine.adapters.slab_tier import ALIGNMENT
from small_pools import blank, new_pool, place


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
