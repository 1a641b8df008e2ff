"""Which merges are the same one: the digest of the result, and the equality of recipes."""

from pathlib import Path
from typing import Any

from lorax_serve.ipc.types import MajoritySignMethod, MergeStrategy
from merged_folders import BASE, FULL, merged, recipe
from peft_adapters import adapter_ref, build_adapter, edit_tensors


def test_the_digest_tells_merges_apart(root: Path) -> None:
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


def test_the_digest_follows_content_not_names(tmp_path: Path) -> None:
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
