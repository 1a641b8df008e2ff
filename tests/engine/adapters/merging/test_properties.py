"""What holds of any merge: weights are factors, order is nothing, adapters stay apart."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorax_serve.engine.adapters.merge import merge_weights
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.ipc.types import AdapterRef, MajoritySignMethod, MergeStrategy
from merge_cases import Delta, random_weights, weights_deltas
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


@dataclass(frozen=True)
class AnyMerge:
    seed: int
    weights: list[float]
    strategy: MergeStrategy
    density: float
    method: MajoritySignMethod

    @property
    def parts(self) -> list[LoraWeights]:
        return parts_of(self.seed, len(self.weights))

    def merge(
        self,
        parts: Sequence[LoraWeights],
        weights: Sequence[float],
        density: float | None = None,
    ) -> dict[str, Delta]:
        """Merge by this strategy; by its own density unless told otherwise."""
        refs = [AdapterRef(part.name, "/x", "1") for part in parts]
        kept = self.density if density is None else density
        how = recipe(
            refs, weights, self.strategy, kept if self.strategy.prunes else None, self.method
        )
        return weights_deltas(merge_weights(how, parts, max_rank=FULL, max_elements=AMPLE))


def check_close(got: Mapping[str, Delta], expected: Mapping[str, Delta]) -> None:
    assert got.keys() == expected.keys()
    for module, delta in expected.items():
        size = max(np.abs(delta).max(), 1.0)
        np.testing.assert_allclose(got[module], delta, atol=1e-5 * size, err_msg=module)


any_merge = st.builds(
    AnyMerge,
    seed=st.integers(0, 2**32),
    weights=st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=4),
    strategy=st.sampled_from(MergeStrategy),
    density=st.floats(0.1, 1.0),
    method=st.sampled_from(MajoritySignMethod),
)


@settings(max_examples=60, deadline=None)
@given(factor=st.sampled_from([2.0, -1.0, 0.25, 0.0]), case=any_merge)
def test_a_weight_means_what_it_says(factor: float, case: AnyMerge) -> None:
    """All weights times c: c times the result. On A and B apart it would be c squared."""
    once = case.merge(case.parts, case.weights)
    scaled = case.merge(case.parts, [factor * w for w in case.weights])
    check_close(scaled, {module: factor * delta for module, delta in once.items()})


@settings(max_examples=40, deadline=None)
@given(case=any_merge)
def test_the_order_of_the_parts_does_not_matter(case: AnyMerge) -> None:
    parts, weights = case.parts, case.weights
    expected = case.merge(parts, weights)
    for order in list(permutations(range(len(parts))))[-2:]:
        got = case.merge([parts[i] for i in order], [weights[i] for i in order])
        check_close(got, expected)


@settings(max_examples=40, deadline=None)
@given(case=any_merge)
def test_where_no_sign_is_elected_adapters_merge_independently(case: AnyMerge) -> None:
    """A merge of all is the sum of the merges of each: nothing crosses between parts."""
    assume(not case.strategy.elects_signs)
    total: dict[str, Delta] = {}
    for part, weight in zip(case.parts, case.weights, strict=True):
        for module, delta in case.merge([part], [weight]).items():
            total[module] = total.get(module, 0.0) + delta
    check_close(case.merge(case.parts, case.weights), total)


@settings(max_examples=40, deadline=None)
@given(case=any_merge)
def test_one_adapter_is_itself_times_its_weight_where_nothing_is_pruned(case: AnyMerge) -> None:
    (part,), weight = case.parts[:1], case.weights[0]
    exact = weights_deltas(part)
    got = case.merge([part], [weight], density=1.0)
    check_close(got, {module: weight * delta for module, delta in exact.items()})
