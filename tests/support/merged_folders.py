"""Adapter folders that the tests of merging share, and their merges; all of one small model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorax_serve.engine.adapters.merge import read_merged
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.ipc.types import AdapterRef, MajoritySignMethod, MergedAdapters, MergeStrategy
from merge_cases import Delta, relative_error, weights_deltas
from peft_adapters import adapter_ref
from tiny_llama import lora_sites, tiny_llama

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
