"""Merges against PEFT's own, of the adapters' products; of their factors it is something else."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel

from lorax_serve.ipc.types import MajoritySignMethod, MergeStrategy
from merge_cases import Delta, in_numpy, relative_error, weights_deltas
from merged_folders import BASE, FULL, check_equal, merged
from peft_adapters import build_adapter, peft_deltas
from tiny_llama import tiny_llama


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
    return in_numpy(peft_deltas(model, "merged"))


PEFT_SAME: list[tuple[str, MergeStrategy, float | None]] = [
    ("cat", MergeStrategy.LINEAR, None),
    ("svd", MergeStrategy.LINEAR, None),
    ("magnitude_prune_svd", MergeStrategy.MAGNITUDE_PRUNE, 0.3),
    ("ties_svd", MergeStrategy.TIES, 0.3),
    ("ties_svd", MergeStrategy.TIES, 1.0),
    ("dare_linear_svd", MergeStrategy.DARE_LINEAR, 1.0),  # PEFT's masks come from global dice
    ("dare_ties_svd", MergeStrategy.DARE_TIES, 1.0),
]


@pytest.mark.parametrize("method", MajoritySignMethod)
@pytest.mark.parametrize(("theirs", "ours", "density"), PEFT_SAME)
def test_peft_merges_deltas_to_the_same(
    root: Path,
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
