"""Merges that cannot be: what is wrong, and with which of the adapters, is said by name."""

from pathlib import Path

import pytest

from lorax_serve.engine.adapters.merge import merge_weights, read_merged
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import AdapterRef, ErrorCode, MergeStrategy
from merge_cases import random_weights
from merged_folders import AMPLE, BASE, FULL, SITES, recipe
from peft_adapters import adapter_ref, build_adapter, edit_config


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
