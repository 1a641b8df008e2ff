"""Long lists are what the encoder makes of them, without ever being there whole."""

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_serve.server.long_lists import JsonList, json_list

ITEMS = st.one_of(
    st.none(), st.integers(-(2**60), 2**60), st.text(), st.dictionaries(st.text(), st.floats())
)


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 2048, 5000])
def test_any_length(length: int) -> None:
    items = [{"é": number / 3} for number in range(length)]
    assert json_list(iter(items)) == msgspec.json.encode(items)


@given(st.lists(st.lists(ITEMS, max_size=3), max_size=4))
def test_any_parts(parts: list[list[object]]) -> None:
    written = JsonList()
    for part in parts:
        written.extend(part)
    whole = [item for part in parts for item in part]
    assert written.json() == msgspec.json.encode(whole)
    assert msgspec.json.encode({"a": written.raw()}) == msgspec.json.encode({"a": whole})


def test_few_items_are_there_at_a_time() -> None:
    num_alive = most_alive = 0

    class Item(msgspec.Struct):
        def __del__(self) -> None:
            nonlocal num_alive
            num_alive -= 1

    def items() -> Iterator[Item]:
        nonlocal num_alive, most_alive
        for _ in range(20_000):
            num_alive += 1
            most_alive = max(most_alive, num_alive)
            yield Item()

    json_list(items())
    assert most_alive < 5000
