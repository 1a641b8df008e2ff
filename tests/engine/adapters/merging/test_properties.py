"""What holds of any merge: weights are factors, order is nothing, adapters stay apart."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorax_serve.engine.adapters.merge import merge_weights
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.ipc.types import (
    AdapterRef,
    MajoritySignMethod,
    MergeStrategy,
)
from merge_cases import (
    Delta,
    random_weights,
    weights_deltas,
)
from merged_folders import AMPLE, FULL, recipe

SHAPES = {"m": (9, 3, 7), "n": (4, 2, 11)}
SHIFTED = {"n": (4, 5, 11), "o": (6, 1, 6)}


def parts_of(seed: int, number: int) -> list[LoraWeights]:
    return [
        random_weights(
            hashlib.sha256(f"{seed} {i}".encode()).hexdigest(),
            SHIFTED if i % 2 else SHAPES,
            seed=seed + i,
            scale=0.5 + i,
        )
        for i in range(number)
    ]


def merge_parts(
    parts: Sequence[LoraWeights],
    weights: Sequence[float],
    strategy: MergeStrategy,
    density: float,
    method: MajoritySignMethod,
) -> dict[str, Delta]:
    refs = [AdapterRef(part.name, "/x", "1") for part in parts]
    how = recipe(refs, weights, strategy, density if strategy.prunes else None, method)
    return weights_deltas(merge_weights(how, parts, max_rank=FULL, max_elements=AMPLE))


def check_close(got: Mapping[str, Delta], expected: Mapping[str, Delta]) -> None:
    assert got.keys() == expected.keys()
    for module, delta in expected.items():
        size = max(np.abs(delta).max(), 1.0)
        np.testing.assert_allclose(got[module], delta, atol=1e-5 * size, err_msg=module)


any_merge = {
    "seed": st.integers(0, 2**32),
    "weights": st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=4),
    "strategy": st.sampled_from(MergeStrategy),
    "density": st.floats(0.1, 1.0),
    "method": st.sampled_from(MajoritySignMethod),
}


@settings(max_examples=60, deadline=None)
@given(factor=st.sampled_from([2.0, -1.0, 0.25, 0.0]), **any_merge)
def test_a_weight_means_what_it_says(
    factor: float,
    seed: int,
    weights: list[float],
    strategy: MergeStrategy,
    density: float,
    method: MajoritySignMethod,
) -> None:
    """All weights times c: c times the result. On A and B apart it would be c squared."""
    parts = parts_of(seed, len(weights))
    once = merge_parts(parts, weights, strategy, density, method)
    scaled = merge_parts(parts, [factor * w for w in weights], strategy, density, method)
    check_close(scaled, {module: factor * delta for module, delta in once.items()})


@settings(max_examples=40, deadline=None)
@given(**any_merge)
def test_the_order_of_the_parts_does_not_matter(
    seed: int,
    weights: list[float],
    strategy: MergeStrategy,
    density: float,
    method: MajoritySignMethod,
) -> None:
    parts = parts_of(seed, len(weights))
    expected = merge_parts(parts, weights, strategy, density, method)
    for order in list(permutations(range(len(parts))))[-2:]:
        got = merge_parts(
            [parts[i] for i in order], [weights[i] for i in order], strategy, density, method
        )
        check_close(got, expected)


@settings(max_examples=40, deadline=None)
@given(**any_merge)
def test_where_no_sign_is_elected_adapters_merge_independently(
    seed: int,
    weights: list[float],
    strategy: MergeStrategy,
    density: float,
    method: MajoritySignMethod,
) -> None:
    """A merge of all is the sum of the merges of each: nothing crosses between parts."""
    assume(not strategy.elects_signs)
    parts = parts_of(seed, len(weights))
    total: dict[str, Delta] = {}
    for part, weight in zip(parts, weights, strict=True):
        for module, delta in merge_parts([part], [weight], strategy, density, method).items():
            total[module] = total.get(module, 0.0) + delta
    check_close(merge_parts(parts, weights, strategy, density, method), total)


@settings(max_examples=40, deadline=None)
@given(**any_merge)
def test_one_adapter_is_itself_times_its_weight_where_nothing_is_pruned(
    seed: int,
    weights: list[float],
    strategy: MergeStrategy,
    density: float,
    method: MajoritySignMethod,
) -> None:
    parts = parts_of(seed, 1)
    got = merge_parts(parts, weights[:1], strategy, 1.0, method)
    exact = weights_deltas(parts[0])
    check_close(got, {module: weights[0] * delta for module, delta in exact.items()})
