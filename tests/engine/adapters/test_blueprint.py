"""Files alike are judged once, and nothing but its names is taken from the first."""

from pathlib import Path

import pytest
import torch

from bad_adapters import BAD_ADAPTERS, MAX_RANK, BadAdapter
from lorax_serve.engine.adapters import format as format_module
from lorax_serve.engine.adapters.blueprint import Blueprints
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.weights import LoraWeights
from lorax_serve.engine.errors import AdapterRejected
from peft_adapters import adapter_ref, build_adapter, edit_config, edit_tensors
from tiny_llama import BASE, SITES


def read(folder: Path, blueprints: Blueprints | None) -> LoraWeights:
    return read_adapter(adapter_ref(folder), SITES, max_rank=MAX_RANK, blueprints=blueprints)


@pytest.fixture
def good_adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    build_adapter(folder, BASE, targets=["q_proj", "v_proj"])
    return folder


def assert_equal(ours: LoraWeights, alone: LoraWeights) -> None:
    assert ours.digest == alone.digest
    assert ours.matrices.keys() == alone.matrices.keys()
    for module, matrices in ours.matrices.items():
        assert matrices.scale == alone.matrices[module].scale
        assert torch.equal(matrices.a, alone.matrices[module].a)
        assert torch.equal(matrices.b, alone.matrices[module].b)


@pytest.fixture
def num_judged(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that names were judged."""
    judged: list[int] = []
    judge = format_module._judge

    def judge_and_count(header: memoryview, *args: object, **options: object) -> object:
        judged.append(len(header))
        return judge(header, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(format_module, "_judge", judge_and_count)
    return judged


def test_the_second_adapter_of_a_kind_is_not_judged_again(
    tmp_path: Path, num_judged: list[int]
) -> None:
    blueprints = Blueprints()
    for seed in range(3):
        folder = tmp_path / str(seed)
        build_adapter(folder, BASE, seed=seed)
        known = read(folder, blueprints)
        assert len(num_judged) == 1
        assert_equal(known, read(folder, None))
        num_judged.pop()


def test_what_the_config_says_decides_too(good_adapter: Path, num_judged: list[int]) -> None:
    blueprints = Blueprints()
    scale = next(iter(read(good_adapter, blueprints).matrices.values())).scale
    edit_config(good_adapter, lora_alpha=17)
    changed = next(iter(read(good_adapter, blueprints).matrices.values())).scale
    assert changed != scale and len(num_judged) == 2


@pytest.mark.parametrize("bad", BAD_ADAPTERS, ids=lambda bad: bad.name)
def test_bad_adapters_are_refused_alike_beside_good_ones(
    bad: BadAdapter, good_adapter: Path
) -> None:
    blueprints = Blueprints()
    read(good_adapter, blueprints)
    bad.spoil(good_adapter)
    reasons = []
    for known in (None, blueprints, blueprints):
        with pytest.raises(AdapterRejected) as caught:
            read(good_adapter, known)
        reasons.append((caught.value.code, caught.value.reasons))
    assert reasons[0] == reasons[1] == reasons[2]


def test_copies_of_base_weights_are_compared_each_time(
    tmp_path: Path, num_judged: list[int]
) -> None:
    blueprints = Blueprints()
    build_adapter(tmp_path, BASE, targets=["lm_head"], save_embedding_layers="auto")

    def read_with_base() -> LoraWeights:
        return read_adapter(
            adapter_ref(tmp_path),
            SITES,
            max_rank=8,
            base_weight=lambda module: BASE.get_parameter(f"{module}.weight").detach(),
            blueprints=blueprints,
        )

    read_with_base()
    edit_tensors(
        tmp_path,
        lambda tensors: {k: v + 0.01 if "base_layer" in k else v for k, v in tensors.items()},
    )
    with pytest.raises(AdapterRejected, match="copy of a base weight"):
        read_with_base()


def test_only_so_many_kinds_are_remembered(good_adapter: Path, num_judged: list[int]) -> None:
    blueprints = Blueprints()
    for alpha in (*range(1, 66), 1):
        edit_config(good_adapter, lora_alpha=alpha)
        read(good_adapter, blueprints)
    assert len(num_judged) == 66
