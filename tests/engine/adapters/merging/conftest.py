"""Three adapters whose ranks, scales and targets all differ, and what PEFT says they add."""

from pathlib import Path

import pytest

from merge_cases import Delta, in_numpy
from merged_folders import BASE, MIXED
from peft_adapters import build_adapter, peft_deltas

Deltas = dict[str, dict[str, Delta]]  # by adapter, by module


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Deltas]:
    root = tmp_path_factory.mktemp("adapters")
    deltas = {
        name: in_numpy(peft_deltas(build_adapter(root / name, BASE, seed=seed, **options)))
        for seed, (name, options) in enumerate(MIXED.items())
    }
    return root, deltas


@pytest.fixture(scope="session")
def root(built: tuple[Path, Deltas]) -> Path:
    """The folder of the adapters' folders, for reading only."""
    return built[0]


@pytest.fixture(scope="session")
def deltas(built: tuple[Path, Deltas]) -> Deltas:
    return built[1]
