"""Each strategy against a dense float64 reference: linear, magnitude pruning, TIES and DARE."""

from pathlib import Path

import numpy as np
import pytest

from lorax_serve.engine.adapters.merge import merge_weights
from lorax_serve.ipc.types import AdapterRef, MajoritySignMethod, MergeStrategy
from merge_cases import Delta, elect_and_average, linear, random_weights, trim, weights_deltas
from merged_folders import AMPLE, FULL, MIXED, by_module, check_equal, merged, recipe

RECIPES = [("a", [1.0]), ("b", [-0.5]), ("ab", [1.0, 1.0]), ("abc", [0.7, -1.3, 2.0])]


@pytest.mark.parametrize(("names", "weights"), RECIPES)
def test_linear_is_the_weighted_sum(
    root: Path, deltas: dict[str, dict[str, Delta]], names: str, weights: list[float]
) -> None:
    got = merged(root, names, weights)
    cases = by_module(deltas, names, weights)
    check_equal(got, {module: linear(*case) for module, case in cases.items()})


def test_linear_keeps_the_sum_of_the_ranks(root: Path) -> None:
    got = merged(root, "abc")
    assert got.matrices["model.layers.0.self_attn.q_proj"].rank == 4 + 7 + 3
    assert got.matrices["model.layers.0.self_attn.k_proj"].rank == 12
    assert got.matrices["model.layers.0.mlp.gate_proj"].rank == 7 + 12


@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
@pytest.mark.parametrize(("names", "weights"), RECIPES)
def test_magnitude_pruning_is_the_sum_of_the_largest_elements(
    root: Path,
    deltas: dict[str, dict[str, Delta]],
    names: str,
    weights: list[float],
    density: float,
) -> None:
    got = merged(root, names, weights, MergeStrategy.MAGNITUDE_PRUNE, density)
    cases = by_module(deltas, names, weights)
    check_equal(
        got,
        {m: linear([trim(d, density) for d in found], w) for m, (found, w) in cases.items()},
    )


@pytest.mark.parametrize("method", MajoritySignMethod)
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize(("names", "weights"), RECIPES)
def test_ties_averages_what_agrees_with_the_elected_sign(
    root: Path,
    deltas: dict[str, dict[str, Delta]],
    names: str,
    weights: list[float],
    density: float,
    method: MajoritySignMethod,
) -> None:
    got = merged(root, names, weights, MergeStrategy.TIES, density, method)
    expected = {
        module: elect_and_average([trim(d, density) for d in found], at, method.value)
        for module, (found, at) in by_module(deltas, names, weights).items()
    }
    check_equal(got, expected)


@pytest.fixture(scope="module")
def dropped(root: Path) -> dict[str, dict[str, Delta]]:
    """What DARE leaves of each adapter alone, at a density of 0.4."""
    return {
        name: weights_deltas(merged(root, name, [1.0], MergeStrategy.DARE_LINEAR, 0.4))
        for name in MIXED
    }


def test_dare_drops_elements_and_scales_up_the_rest(
    deltas: dict[str, dict[str, Delta]], dropped: dict[str, dict[str, Delta]]
) -> None:
    for name in MIXED:
        for module, delta in deltas[name].items():
            got = dropped[name][module]
            kept = np.abs(got) > np.abs(delta)  # scaled by 2.5
            # What is not there is there within rounding: the factors are of float32.
            rounding = 1e-5 * np.abs(delta).max()
            np.testing.assert_allclose(got, np.where(kept, delta / 0.4, 0), atol=rounding)
            deviation = np.sqrt(0.4 * 0.6 / delta.size)
            assert abs(kept.mean() - 0.4) < 4 * deviation


def test_dare_draws_anew_for_each_adapter_and_linear(root: Path) -> None:
    got = weights_deltas(merged(root, "c", [1.0], MergeStrategy.DARE_LINEAR, 0.5))
    attention = "model.layers.0.self_attn."
    k, v = (np.abs(got[f"{attention}{name}_proj"]) > 1e-6 for name in "kv")
    assert 0.4 < (k == v).mean() < 0.6


def test_dare_is_right_on_average() -> None:
    shape = {"m": (6, 2, 5)}
    exact = weights_deltas(random_weights("", shape, seed=1))["m"]
    total = np.zeros_like(exact)
    for index in range(400):
        part = random_weights(str(index), shape, seed=1)  # the digest alone differs
        how = recipe([AdapterRef("x", "/x", "1")], [1.0], MergeStrategy.DARE_LINEAR, 0.5)
        total += weights_deltas(merge_weights(how, [part], max_rank=FULL, max_elements=AMPLE))["m"]
    assert np.all(np.abs(total / 400 - exact) < 5 * np.abs(exact) / np.sqrt(400))


@pytest.mark.parametrize(("names", "weights"), RECIPES[2:])
def test_dare_linear_adds_up_what_is_left_of_each(
    root: Path, dropped: dict[str, dict[str, Delta]], names: str, weights: list[float]
) -> None:
    got = merged(root, names, weights, MergeStrategy.DARE_LINEAR, 0.4)
    cases = by_module(dropped, names, weights)
    check_equal(got, {module: linear(*case) for module, case in cases.items()})


@pytest.mark.parametrize("method", MajoritySignMethod)
@pytest.mark.parametrize(("names", "weights"), RECIPES[2:])
def test_dare_ties_elects_among_what_is_left_of_each(
    root: Path,
    dropped: dict[str, dict[str, Delta]],
    names: str,
    weights: list[float],
    method: MajoritySignMethod,
) -> None:
    got = merged(root, names, weights, MergeStrategy.DARE_TIES, 0.4, method)
    expected = {}
    for module, (found, at) in by_module(dropped, names, weights).items():
        # Rounding in the factors leaves dust where DARE dropped: no element so small was kept.
        swept = [np.where(np.abs(d) > 1e-6 * np.abs(d).max(), d, 0) for d in found]
        expected[module] = elect_and_average(swept, at, method.value)
    check_equal(got, expected)
