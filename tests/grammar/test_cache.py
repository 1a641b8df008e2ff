import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.grammar.cache import ByteBoundedCache


def test_the_least_recently_used_goes_first() -> None:
    cache: ByteBoundedCache[str, int] = ByteBoundedCache(30)
    for key, value in (("a", 1), ("b", 2), ("c", 3)):
        cache.put(key, value, 10)
    assert cache.get("a") == 1
    cache.put("d", 4, 10)
    assert [cache.get(key) for key in "abcd"] == [1, None, 3, 4]


def test_a_value_over_the_capacity_is_not_kept_and_evicts_nothing() -> None:
    cache: ByteBoundedCache[str, int] = ByteBoundedCache(30)
    cache.put("a", 1, 30)
    cache.put("b", 2, 31)
    assert cache.get("a") == 1
    assert cache.get("b") is None


def test_putting_again_replaces() -> None:
    cache: ByteBoundedCache[str, int] = ByteBoundedCache(30)
    cache.put("a", 1, 20)
    cache.put("a", 2, 5)
    assert (cache.get("a"), cache.used_bytes, len(cache)) == (2, 5, 1)


def test_a_negative_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="expected capacity_bytes >= 0, got -1"):
        ByteBoundedCache(-1)


@given(puts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50)), max_size=60))
@settings(derandomize=True, deadline=None)
def test_the_sum_never_exceeds_the_capacity(puts: list[tuple[int, int]]) -> None:
    cache: ByteBoundedCache[int, int] = ByteBoundedCache(100)
    sizes: dict[int, int] = {}
    for key, size in puts:
        cache.put(key, size, size)
        sizes[key] = size
        held = [k for k in sizes if cache.get(k) is not None]
        assert cache.used_bytes == sum(sizes[k] for k in held) <= 100
        assert key in held
