"""Merges against a dense float64 reference, against PEFT's own, and what must always hold."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from structlog.testing import capture_logs

from lorax_serve.engine.adapters.merge import merge_weights, read_merged
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import (
    AdapterRef,
    ErrorCode,
    MajoritySignMethod,
    MergedAdapters,
    MergeStrategy,
)
from merge_cases import (
    Delta,
    best_error,
    elect_and_average,
    linear,
    peft_deltas,
    random_weights,
    relative_error,
    trim,
    weights_deltas,
)
from peft_adapters import (
    adapter_ref,
    build_adapter,
    edit_config,
    edit_tensors,
    lora_sites,
    tiny_llama,
)

BASE = tiny_llama(num_hidden_layers=1)
SITES = lora_sites(BASE)
FULL = 128  # no linear here has more than 64 rows or columns on its shorter side: nothing is cut
AMPLE = 2**30  # elements: no merge here has as many
EXACT = 1e-5
MIXED: dict[str, dict[str, Any]] = {  # ranks, scales and targets all differ
    "a": {"rank": 4, "targets": ["q_proj", "v_proj", "down_proj"], "lora_alpha": 4},
    "b": {"rank": 7, "targets": ["q_proj", "gate_proj"], "lora_alpha": 30, "use_rslora": True},
    "c": {"rank": 12, "targets": "all-linear", "rank_pattern": {"q_proj": 3}},
}
PRUNING = [s for s in MergeStrategy if s.prunes]
DARE = [MergeStrategy.DARE_LINEAR, MergeStrategy.DARE_TIES]
SIGNS = list(MajoritySignMethod)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def peft_models(root: Path) -> dict[str, PeftModel]:
    return {
        name: build_adapter(root / name, BASE, seed=seed, **options)
        for seed, (name, options) in enumerate(MIXED.items())
    }


@pytest.fixture(scope="module")
def deltas(peft_models: dict[str, PeftModel]) -> dict[str, dict[str, Delta]]:
    return {name: peft_deltas(model) for name, model in peft_models.items()}


def recipe(
    parts: Sequence[AdapterRef],
    weights: Sequence[float] | None = None,
    strategy: MergeStrategy = MergeStrategy.LINEAR,
    density: float | None = None,
    method: MajoritySignMethod = MajoritySignMethod.TOTAL,
) -> MergedAdapters:
    ones = (1.0,) * len(parts)
    return MergedAdapters(
        tuple(parts), ones if weights is None else tuple(weights), strategy, density, method
    )


def merged(root: Path, names: str, *args: Any, max_rank: int = FULL) -> LoraWeights:
    """Adapters of `root` by one-letter names, read and merged."""
    return read_merged(
        recipe([adapter_ref(root / n) for n in names], *args),
        SITES,
        max_rank=max_rank,
        max_elements=AMPLE,
    )


def check_equal(got: LoraWeights, expected: Mapping[str, Delta]) -> None:
    found = weights_deltas(got)
    assert found.keys() == expected.keys()
    for module, delta in expected.items():
        assert relative_error(found[module], delta) < EXACT, module


def by_module(
    deltas: Mapping[str, Mapping[str, Delta]], names: str, weights: Sequence[float]
) -> dict[str, tuple[list[Delta], list[float]]]:
    """For each linear that any of the parts targets: the deltas there are, and their weights."""
    found: dict[str, tuple[list[Delta], list[float]]] = {}
    for name, weight in zip(names, weights, strict=True):
        for module, delta in deltas[name].items():
            at = found.setdefault(module, ([], []))
            at[0].append(delta)
            at[1].append(weight)
    return found


# -- the dense reference

RECIPES = [("a", [1.0]), ("b", [-0.5]), ("ab", [1.0, 1.0]), ("abc", [0.7, -1.3, 2.0])]


@pytest.mark.parametrize(("names", "weights"), RECIPES)
def test_linear_is_the_weighted_sum(
    root: Path, deltas: dict[str, dict[str, Delta]], names: str, weights: list[float]
) -> None:
    got = merged(root, names, weights)
    cases = by_module(deltas, names, weights)
    check_equal(got, {module: linear(*case) for module, case in cases.items()})


def test_linear_keeps_the_sum_of_the_ranks(root: Path, peft_models: dict[str, PeftModel]) -> None:
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


@pytest.mark.parametrize("method", SIGNS)
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
def dropped(root: Path, peft_models: dict[str, PeftModel]) -> dict[str, dict[str, Delta]]:
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


def test_dare_draws_anew_for_each_adapter_and_linear(
    root: Path, peft_models: dict[str, PeftModel]
) -> None:
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


@pytest.mark.parametrize("method", SIGNS)
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


# -- where the rank does not suffice


@pytest.mark.parametrize("strategy", [MergeStrategy.TIES, MergeStrategy.MAGNITUDE_PRUNE])
def test_a_pruned_merge_is_cut_to_the_best_of_its_rank_and_says_so(
    root: Path, deltas: dict[str, dict[str, Delta]], strategy: MergeStrategy
) -> None:
    with capture_logs() as logs:
        cut = merged(root, "abc", None, strategy, 0.3, max_rank=16)
        whole = weights_deltas(merged(root, "abc", None, strategy, 0.3))
    found = weights_deltas(cut)
    errors = []
    for module, exact in whole.items():
        u, s, v = np.linalg.svd(exact, full_matrices=False)
        rank = cut.matrices[module].rank
        assert rank <= 16
        best = (u[:, :rank] * s[:rank]) @ v[:rank]
        assert relative_error(found[module], best) < EXACT
        errors.append(best_error(exact, rank))
    loud, quiet = logs
    assert (loud["event"], loud["log_level"]) == ("adapters_merged_approximately", "warning")
    assert loud["relative_residual"] == pytest.approx(max(errors), rel=1e-3)
    assert loud["num_adapters"] == 3
    assert (quiet["event"], quiet["log_level"]) == ("adapters_merged", "info")


@pytest.mark.parametrize(
    ("rank", "max_rank", "room_for", "expected"),
    [
        (4, FULL, FULL, 90),  # the linear's own: whole
        (4, 70, FULL, 70),
        (4, FULL, 80, 80),  # no slab that takes too much of a tier
        (4, FULL, 10, 64),  # but a useful one
        (40, FULL, 10, 80),  # and the parts' own ranks
        (4, 50, 10, 50),  # never above what is served
        (40, 50, 60, 50),
    ],
)
def test_a_pruned_merge_has_the_highest_rank_that_is_served_and_has_room(
    rank: int, max_rank: int, room_for: int, expected: int
) -> None:
    shapes = {"m": (100, rank, 90), "n": (90, 2, 80)}
    parts = [
        random_weights("p", shapes, seed=1),
        random_weights("q", {"m": shapes["m"]}, seed=2),
    ]
    how = recipe(
        [AdapterRef(part.name, "/x", "1") for part in parts], None, MergeStrategy.TIES, 0.5
    )
    room = room_for * (100 + 90 + 90 + 80)
    got = merge_weights(how, parts, max_rank=max_rank, max_elements=room)
    assert got.matrices["m"].rank == expected
    other = merge_weights(how, parts, max_rank=max_rank, max_elements=2 * room)
    same = (
        other.matrices["m"].rank == expected and other.matrices["n"].rank == got.matrices["n"].rank
    )
    assert same or other.digest != got.digest


def test_a_pruned_merge_is_exact_where_all_ranks_are_served() -> None:
    """And nearer to the dense merge with every rank more."""
    parts = [random_weights(d, {"m": (100, 4, 90)}, seed=i) for i, d in enumerate("pq")]
    how = recipe(
        [AdapterRef(part.name, "/x", "1") for part in parts], None, MergeStrategy.TIES, 0.5
    )
    dense = elect_and_average(
        [trim(weights_deltas(part)["m"], 0.5) for part in parts], [1.0, 1.0], "total"
    )
    errors = [
        relative_error(
            weights_deltas(merge_weights(how, parts, max_rank=rank, max_elements=AMPLE))["m"], dense
        )
        for rank in (32, 64, 80, 90)
    ]
    assert errors == sorted(errors, reverse=True) and errors[0] > 2 * errors[2]
    assert errors[-1] < EXACT < errors[-2]


@pytest.mark.parametrize("strategy", [MergeStrategy.DARE_LINEAR, MergeStrategy.MAGNITUDE_PRUNE])
def test_pruning_nothing_needs_no_decomposition(root: Path, strategy: MergeStrategy) -> None:
    added = merged(root, "abc", [1.0, 2.0, 3.0])
    got = merged(root, "abc", [1.0, 2.0, 3.0], strategy, 1.0)
    for module, each in added.matrices.items():
        assert torch.equal(got.matrices[module].a, each.a)
        assert torch.equal(got.matrices[module].b, each.b)


def test_linear_that_needs_more_rank_than_is_served_is_refused(
    root: Path, deltas: dict[str, dict[str, Delta]]
) -> None:
    with pytest.raises(AdapterRejected) as caught:
        merged(root, "abc", [0.1, 0.1, 1.0], max_rank=16)
    assert caught.value.code is ErrorCode.ADAPTER_TOO_LARGE
    # gate_proj: 7 and 12; q_proj has 14, and every other one fits.
    assert "'a,b,c'" in caught.value.message
    assert "gate_proj needs rank 19" in caught.value.message
    assert "highest served is 16" in caught.value.message
    check_equal(
        merged(root, "abc", [0.1, 0.1, 1.0], max_rank=19),
        {
            module: linear(*case)
            for module, case in by_module(deltas, "abc", [0.1, 0.1, 1.0]).items()
        },
    )


def test_linear_over_the_rank_is_served_where_almost_nothing_is_lost(
    root: Path, deltas: dict[str, dict[str, Delta]]
) -> None:
    twice = merged(root, "cc", [1.0, 0.5], max_rank=12)
    check_equal(twice, {module: 1.5 * delta for module, delta in deltas["c"].items()})
    assert max(each.rank for each in twice.matrices.values()) == 12
    with capture_logs() as logs:
        faint = weights_deltas(merged(root, "cb", [1.0, 1e-4], max_rank=12))
    assert logs[0]["event"] == "adapters_merged_approximately"
    for module, delta in by_module(deltas, "cb", [1.0, 1e-4]).items():
        assert relative_error(faint[module], linear(*delta)) < 1e-3


# -- identity


def test_the_digest_tells_merges_apart(root: Path, peft_models: dict[str, PeftModel]) -> None:
    ties, half = MergeStrategy.TIES, 0.5
    recipes: list[tuple[Any, ...]] = [
        ("ab",),
        ("ba",),
        ("abc",),
        ("aab",),
        ("ab", [1.0, 2.0]),
        ("ab", [2.0, 1.0]),
        ("ab", None, ties, half),
        ("ab", None, ties, 0.25),
        ("ab", None, ties, half, MajoritySignMethod.FREQUENCY),
        ("ab", None, MergeStrategy.DARE_TIES, half),
        ("ab", None, MergeStrategy.DARE_LINEAR, half),
        ("ab", None, MergeStrategy.MAGNITUDE_PRUNE, half),
    ]
    digests = [merged(root, *each).digest for each in recipes]
    assert len({*digests, merged(root, "ab", max_rank=FULL - 1).digest}) == len(recipes) + 1
    assert [merged(root, *each).digest for each in recipes] == digests


def test_the_digest_follows_content_not_names(
    tmp_path: Path, peft_models: dict[str, PeftModel]
) -> None:
    for name in "xyz":
        build_adapter(tmp_path / name, BASE, seed=3, rank=2, targets=["q_proj"])
    before = merged(tmp_path, "xy").digest
    assert merged(tmp_path, "zx").digest == before
    edit_tensors(tmp_path / "y", lambda tensors: {k: 2 * v for k, v in tensors.items()})
    assert merged(tmp_path, "xy").digest != before


def test_what_is_equal_for_the_exchange(root: Path) -> None:
    parts = [adapter_ref(root / n) for n in "ab"]
    assert recipe(parts) == recipe(parts)
    assert hash(recipe(parts)) == hash(recipe(parts))
    assert len({recipe(parts), recipe(parts[::-1]), recipe(parts, [1.0, 2.0]), parts[0]}) == 4
    assert recipe(parts).revision != recipe(parts, [1.0, 2.0]).revision
    assert recipe(parts).name == "a,b"


# -- refusals


@pytest.mark.parametrize(
    ("weights", "strategy", "density"),
    [
        ([1.0], MergeStrategy.LINEAR, None),
        ([1.0, 1.0, 1.0], MergeStrategy.LINEAR, None),
        ([1.0, 1.0], MergeStrategy.LINEAR, 0.5),
        ([1.0, 1.0], MergeStrategy.TIES, None),
    ],
)
def test_a_recipe_that_contradicts_itself_cannot_be_made(
    root: Path, weights: list[float], strategy: MergeStrategy, density: float | None
) -> None:
    with pytest.raises(ValueError, match="a merge has"):
        recipe([adapter_ref(root / n) for n in "ab"], weights, strategy, density)


def test_a_part_that_is_refused_is_named(root: Path, tmp_path: Path) -> None:
    build_adapter(tmp_path / "good", BASE, rank=2)
    build_adapter(tmp_path / "bad", BASE, rank=2)
    edit_config(tmp_path / "bad", use_dora=True)
    for names in (("good", "bad"), ("bad", "good")):
        with pytest.raises(AdapterRejected, match=r"'bad' cannot be used.*use_dora") as caught:
            read_merged(
                recipe([adapter_ref(tmp_path / n) for n in names]),
                SITES,
                max_rank=FULL,
                max_elements=AMPLE,
            )
        assert caught.value.code is ErrorCode.ADAPTER_INCOMPATIBLE


@pytest.mark.parametrize("strategy", list(MergeStrategy))
def test_numbers_that_overflow_are_refused_by_name(strategy: MergeStrategy) -> None:
    parts = [random_weights(d, {"m": (6, 4, 5)}, seed=1, scale=1e38) for d in "pq"]
    refs = [AdapterRef(part.name, "/x", "1") for part in parts]
    how = recipe(refs, [1000.0, 1.0], strategy, 0.5 if strategy.prunes else None)
    with pytest.raises(AdapterRejected, match="'p,q' cannot be used: m overflows"):
        merge_weights(how, parts, max_rank=6, max_elements=AMPLE)


# -- PEFT's own merging


def peft_merge(root: Path, names: str, weights: list[float], **how: Any) -> dict[str, Delta]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of several adapters, and of densities of 1
        base = tiny_llama(num_hidden_layers=1)
        model = PeftModel.from_pretrained(base, str(root / names[0]), adapter_name=names[0])
        for name in names[1:]:
            model.load_adapter(str(root / name), adapter_name=name)
        if "svd" in how["combination_type"]:
            how = {"svd_rank": FULL, "svd_full_matrices": False, **how}
        model.add_weighted_adapter(list(names), weights, adapter_name="merged", **how)
    return peft_deltas(model, "merged")


PEFT_SAME: list[tuple[str, MergeStrategy, float | None]] = [
    ("cat", MergeStrategy.LINEAR, None),
    ("svd", MergeStrategy.LINEAR, None),
    ("magnitude_prune_svd", MergeStrategy.MAGNITUDE_PRUNE, 0.3),
    ("ties_svd", MergeStrategy.TIES, 0.3),
    ("ties_svd", MergeStrategy.TIES, 1.0),
    ("dare_linear_svd", MergeStrategy.DARE_LINEAR, 1.0),  # PEFT's masks come from global dice
    ("dare_ties_svd", MergeStrategy.DARE_TIES, 1.0),
]


@pytest.mark.parametrize("method", SIGNS)
@pytest.mark.parametrize(("theirs", "ours", "density"), PEFT_SAME)
def test_peft_merges_deltas_to_the_same(
    root: Path,
    peft_models: dict[str, PeftModel],
    theirs: str,
    ours: MergeStrategy,
    density: float | None,
    method: MajoritySignMethod,
) -> None:
    weights = [0.7, -1.3, 2.0]
    expected = peft_merge(
        root,
        "abc",
        weights,
        combination_type=theirs,
        density=density,
        majority_sign_method=method.value,
    )
    check_equal(merged(root, "abc", weights, ours, density, method), expected)


def test_peft_merging_factors_is_something_else(tmp_path: Path) -> None:
    """PEFT's `linear` adds A to A and B to B, with cross terms between parts; alone it agrees."""
    for seed, name in enumerate("xy"):
        build_adapter(tmp_path / name, BASE, rank=4, seed=seed)
    alone = peft_merge(tmp_path, "x", [1.7], combination_type="linear")
    check_equal(merged(tmp_path, "x", [1.7]), alone)
    both = peft_merge(tmp_path, "xy", [1.0, 1.0], combination_type="linear")
    ours = weights_deltas(merged(tmp_path, "xy"))
    assert min(relative_error(ours[module], both[module]) for module in both) > 0.1


# -- what always holds

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
