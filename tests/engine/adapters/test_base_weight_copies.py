"""An adapter on lm_head as PEFT saves it: with a copy of the base weight beside the matrices."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.errors import AdapterRejected
from peft_adapters import WEIGHTS_NAME, adapter_ref, build_adapter, edit_tensors, peft_deltas
from tiny_llama import BASE, SITES


def base_weight(module: str) -> torch.Tensor | None:
    try:
        return BASE.get_parameter(f"{module}.weight").detach()
    except AttributeError:
        return None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_of_base_weights_are_accounted_for(dtype: torch.dtype, tmp_path: Path) -> None:
    model = build_adapter(
        tmp_path, BASE, targets=["lm_head"], dtype=dtype, save_embedding_layers="auto"
    )
    assert any("base_layer" in name for name in _tensor_names(tmp_path))
    weights = read_adapter(adapter_ref(tmp_path), SITES, max_rank=8, base_weight=base_weight)
    assert weights.matrices.keys() == {"lm_head"} == peft_deltas(model).keys()


@pytest.mark.parametrize(
    "change",
    [lambda w: w + 0.01, lambda w: w[:-1], lambda w: torch.cat([w, w[:1]])],
    ids=["other values", "fewer rows", "more rows"],
)
def test_full_tensors_that_differ_from_the_base_are_refused(change: Any, tmp_path: Path) -> None:
    build_adapter(tmp_path, BASE, targets=["lm_head"], save_embedding_layers="auto")
    edit_tensors(
        tmp_path,
        lambda tensors: {k: change(v) if "base_layer" in k else v for k, v in tensors.items()},
    )
    with pytest.raises(AdapterRejected, match="copy of a base weight"):
        read_adapter(adapter_ref(tmp_path), SITES, max_rank=8, base_weight=base_weight)


def test_an_unknown_full_tensor_is_refused_with_a_base_too(good_adapter: Path) -> None:
    extra = {"base_model.model.score.weight": torch.ones(2, 64)}
    edit_tensors(good_adapter, lambda tensors: {**tensors, **extra})
    with pytest.raises(AdapterRejected, match="full tensor"):
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=8, base_weight=base_weight)


def _tensor_names(folder: Path) -> list[str]:
    data = (folder / WEIGHTS_NAME).read_bytes()
    return list(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))
