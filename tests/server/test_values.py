from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from lorax_serve.ipc.sizes import show_size
from lorax_serve.server.values import parse_field, parse_size


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("1k", 1000),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("512MB", 512_000_000),
        ("512 mb", 512_000_000),
        ("1GiB", 2**30),
        ("1.5GiB", 3 * 2**29),
        ("2TiB", 2**41),
        (" 7 ", 7),
    ],
)
def test_sizes(text: str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "1.GB", "1ib", "1 GBs", "0x10", "1,5GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


@settings(derandomize=True)
@given(st.integers(0, 2**45))
def test_a_shown_size_parses_to_the_size_but_for_its_last_digits(num_bytes: int) -> None:
    assert parse_size(show_size(num_bytes)) == pytest.approx(num_bytes, rel=1e-3)


def test_round_sizes_are_shown_exactly() -> None:
    assert [show_size(n) for n in (0, 1000, 384 * 2**20, 2**30)] == [
        "0 B",
        "1000 B",
        "384 MiB",
        "1 GiB",
    ]


@pytest.mark.parametrize(
    ("field_type", "text", "expectation"),
    [
        (int, "x", "expected a whole number"),
        (Annotated[int, Meta(ge=1)], "0", "expected a whole number from 1 up"),
        (Annotated[int, Meta(ge=1, le=9)] | None, "10", "expected a whole number from 1 to 9"),
        (Annotated[float, Meta(ge=0, le=1)], "inf", "expected a number from 0 to 1"),
        (bool, "on", "expected true or false"),
    ],
)
def test_refusals_say_what_is_expected(field_type: object, text: str, expectation: str) -> None:
    with pytest.raises(ValueError, match=f"^{expectation}$"):
        parse_field(text, field_type)


def test_a_path_may_begin_with_the_home_folder() -> None:
    assert parse_field("~/x", Path | None) == Path.home() / "x"
