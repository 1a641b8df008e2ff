"""Philox against Random123's published vectors; the uniform numbers against their definition."""

from collections.abc import Iterable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.engine.sampling.uniform import Words, philox4x32, uniforms

ONES = 0xFFFF_FFFF

# Random123 1.14.0, tests/kat_vectors, rows "philox4x32 10".
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(values: Iterable[int]) -> Words:
    return np.array(list(values), np.uint64)


def test_known_answers() -> None:
    counters, keys, expected = zip(*KNOWN_ANSWERS, strict=True)
    c0, c1, c2, c3 = (words(column) for column in zip(*counters, strict=True))
    k0, k1 = (words(column) for column in zip(*keys, strict=True))
    blocks = philox4x32((c0, c1, c2, c3), (k0, k1))
    assert tuple(zip(*(block.tolist() for block in blocks), strict=True)) == expected


def uniform(seed: int, index: int) -> float:
    return float(uniforms([seed], [index])[0])


def test_zero_seed_and_index_is_the_first_vector() -> None:
    assert uniform(0, 0) == ((0x6627E8D5 << 32 | 0xE169C58D) >> 11) / 2**53


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40))
@settings(derandomize=True)
def test_is_a_multiple_of_its_unit_below_one(seed: int, index: int) -> None:
    value = uniform(seed, index)
    assert 0 <= value < 1
    assert (value * 2**53).is_integer()


def test_every_bit_of_seed_and_index_matters() -> None:
    seeds = [uniform(1 << bit, 0) for bit in range(63)]
    indices = [uniform(0, 1 << bit) for bit in range(63)]
    assert len({uniform(0, 0), *seeds, *indices}) == 127


def chi_square(values: list[float], num_bins: int) -> float:
    counts = [0] * num_bins
    for value in values:
        counts[int(value * num_bins)] += 1
    expected = len(values) / num_bins
    return sum((count - expected) ** 2 / expected for count in counts)


def test_spreads_evenly_over_seeds_and_over_indices() -> None:
    # 99.9th percentile of chi-square with 63 degrees of freedom.
    assert chi_square(uniforms(range(6400), [3] * 6400).tolist(), 64) < 103.4
    assert chi_square(uniforms([3] * 6400, range(6400)).tolist(), 64) < 103.4
