"""Requests that come and go at any step, through a small engine of any size: for properties."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from engine_harness import FakeAdapters, Harness

LAST_STEP = 60  # by which all have come, and who leaves has left

ENGINES = st.fixed_dictionaries(
    {
        "num_blocks": st.integers(11, 40),
        "max_num_sequences": st.integers(1, 6),
        "max_batch_tokens": st.integers(6, 32),
        "prefix_cache": st.booleans(),
        "num_adapters": st.integers(1, 3),  # that have a place at a time
    }
)


def traffic(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Requests in the order of their names, each with `fields` of its own."""
    each = {
        "arrival": st.integers(0, LAST_STEP // 2),
        "prompt": st.lists(st.integers(0, 3), min_size=1, max_size=24),
        "num_new": st.integers(1, 20),
        "adapter": st.sampled_from([None, "a", "b", "c", "bad"]),
        "abort_at": st.none() | st.integers(0, LAST_STEP),
    }
    return st.lists(st.fixed_dictionaries(each | fields), min_size=1, max_size=12)


def is_aborted(each: dict[str, Any]) -> bool:
    return each["abort_at"] is not None and each["abort_at"] > each["arrival"]


def after_traffic(
    requests: list[dict[str, Any]],
    message: Callable[[str, dict[str, Any]], Any],
    *,
    overlaps: bool,
    num_adapters: int,
    **sizes: Any,
) -> Harness:
    """An engine that has answered them all, each sent as `message` makes it of its number and
    fields. Whatever they held it has again.
    """
    adapters = FakeAdapters(capacity=num_adapters, delay=3, broken=frozenset({"bad"}))
    harness = Harness(overlaps=overlaps, adapters=adapters, **sizes)
    for now in range(LAST_STEP + 1):
        for number, each in enumerate(requests):
            if each["arrival"] == now:
                harness.generate(message(str(number), each))
            if each["abort_at"] == now and is_aborted(each):
                harness.abort(str(number))
        harness.step()
        harness.scheduler.check_integrity()
    harness.run_until_idle()
    assert harness.allocator.num_used == 0
    assert all(slot.num_pins == 0 for slot in adapters.resident.values())
    assert adapters.loading == {}, "an adapter is kept for nobody"
    return harness
