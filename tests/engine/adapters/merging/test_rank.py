"""Where a merge needs more rank than is served: cut to the best of that rank, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from lorax_serve.engine.adapters.merge import merge_weights
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import AdapterRef, ErrorCode, MergeStrategy
from merge_cases import (
    Delta,
    best_error,
    elect_and_average,
    linear,
    random_weights,
    relative_error,
    trim,
    weights_deltas,
)
from merged_folders import AMPLE, EXACT, FULL, by_module, check_equal, merged, recipe


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
