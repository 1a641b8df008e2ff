"""Reading PEFT folders: what they mean equals PEFT, however they were written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax_serve.engine.adapters.format import read_adapter
from peft_adapters import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    adapter_ref,
    build_adapter,
    edit_config,
    edit_tensors,
    peft_deltas,
)
from read_adapters import assert_same_deltas, digest_of, packed_deltas
from tiny_llama import BASE, SITES, tiny_llama

MODULES = [target.module for site in SITES for target in site.targets]

HONOURED: dict[str, dict[str, Any]] = {
    **{f"rank {rank}": {"rank": rank} for rank in (1, 4, 8, 16, 64, 100)},
    "rslora": {"rank": 4, "use_rslora": True, "lora_alpha": 16},
    "rank pattern": {"rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 5, "mlp.*": 2}},
    "alpha pattern": {"alpha_pattern": {"v_proj": 2, r"layers\.0\..*": 40, "k_proj": 0.5}},
    "first pattern wins": {"rank_pattern": {"layers.0.self_attn.q_proj": 2, "q_proj": 7}},
    "anchored patterns": {"rank_pattern": {"^model.layers.1.mlp.gate_proj": 6, "proj": 1}},
    "rslora with patterns": {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"q_proj": 3, "down_proj": 11},
    },
    "list": {"targets": ["q_proj", "mlp.down_proj", "model.layers.1.self_attn.o_proj"]},
    "regex": {"targets": r".*\.layers\.[0-1]\.(self_attn\.[qk]|mlp\.down)_proj"},
    "all-linear": {"targets": "all-linear"},
    "excluded": {"exclude_modules": ["k_proj", "layers.0.mlp.up_proj"]},
    "excluded by regex": {"exclude_modules": r".*mlp.*"},
    "one layer": {"layers_to_transform": [1]},
    "layer as a number": {"layers_to_transform": 0},
    "layers pattern": {"layers_to_transform": [0], "layers_pattern": ["layers"]},
    "lm_head": {"targets": ["lm_head", "q_proj"]},
    "only lm_head": {"targets": ["lm_head"], "rank": 5},
    # PEFT writes false, and reads true as false, where the base layers are linears.
    "fan_in_fan_out": {"edited_config": {"fan_in_fan_out": True}},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "dropout": {"lora_dropout": 0.5},
    "gaussian": {"init_lora_weights": "gaussian"},
    "negative alpha": {"lora_alpha": -4},
    "bias named, none trained": {"bias": "all"},
}


@pytest.mark.parametrize("feature", HONOURED)
def test_deltas_equal_peft(feature: str, tmp_path: Path) -> None:
    model = build_adapter(tmp_path, BASE, **HONOURED[feature])
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    assert config["fan_in_fan_out"] is (feature == "fan_in_fan_out")
    assert_same_deltas(packed_deltas(tmp_path), peft_deltas(model))


HEADLESS: dict[str, dict[str, Any]] = {
    "all-linear": {},
    "names in full": {"targets": ["layers.1.self_attn.o_proj", "q_proj"]},
    "regex": {"targets": r"layers\.\d+\.mlp\.(up|down)_proj"},
    "patterns": {"rank_pattern": {"^layers.1.mlp.gate_proj": 6, "k_proj": 1}},
    "excluded": {"exclude_modules": r"layers\.0\..*"},
}


@pytest.mark.parametrize("feature", HEADLESS)
def test_an_adapter_of_the_decoder_without_its_head(feature: str, tmp_path: Path) -> None:
    """As those for embeddings are trained: PEFT names modules, and reads patterns, without
    `model.`.
    """
    model = build_adapter(tmp_path, BASE.model, task_type="FEATURE_EXTRACTION", **HEADLESS[feature])
    theirs = {f"model.{module}": delta for module, delta in peft_deltas(model).items()}
    assert_same_deltas(packed_deltas(tmp_path), theirs)


def test_a_tied_head_has_a_delta_of_its_own(tmp_path: Path) -> None:
    model = build_adapter(tmp_path, tiny_llama(tied=True), targets=["lm_head", "v_proj"])
    assert_same_deltas(packed_deltas(tmp_path), peft_deltas(model))


def test_a_literal_all_linear_and_old_default_infix_and_no_type(tmp_path: Path) -> None:
    model = build_adapter(tmp_path, BASE)
    edit_config(tmp_path, target_modules="all-linear", peft_type=..., peft_version=...)
    edit_tensors(
        tmp_path,
        lambda tensors: {k.replace(".weight", ".default.weight"): v for k, v in tensors.items()},
    )
    assert_same_deltas(packed_deltas(tmp_path), peft_deltas(model))


@pytest.mark.parametrize("peft_type", [..., None])
def test_a_rank_without_a_type_is_lora_as_old_ludwig_wrote_it(
    tmp_path: Path, peft_type: object
) -> None:
    model = build_adapter(tmp_path, BASE)
    edit_config(tmp_path, peft_type=peft_type)
    assert_same_deltas(packed_deltas(tmp_path), peft_deltas(model))


def test_some_tensors_may_be_left_out_in_pairs(tmp_path: Path) -> None:
    model = build_adapter(tmp_path, BASE)
    edit_tensors(
        tmp_path, lambda tensors: {k: v for k, v in tensors.items() if "layers.0" not in k}
    )
    expected = {k: v for k, v in peft_deltas(model).items() if "layers.0" not in k}
    assert_same_deltas(packed_deltas(tmp_path), expected)


def test_null_and_false_fields_of_any_version_are_tolerated(tmp_path: Path) -> None:
    model = build_adapter(tmp_path, BASE)
    edit_config(
        tmp_path, from_the_future=None, use_magic=False, use_dora=None, r=8, bias=None, extras={}
    )
    assert_same_deltas(packed_deltas(tmp_path), peft_deltas(model))
    weights = read_adapter(adapter_ref(tmp_path), SITES, max_rank=8)
    assert weights.unknown_config_fields == ()


def test_unknown_set_fields_are_reported_but_cost_nothing(tmp_path: Path) -> None:
    build_adapter(tmp_path, BASE)
    edit_config(tmp_path, from_the_future=3, another="x", revision="main")
    weights = read_adapter(adapter_ref(tmp_path), SITES, max_rank=8)
    assert weights.unknown_config_fields == ("another", "from_the_future")


def test_a_config_as_other_editors_and_languages_write_it(tmp_path: Path) -> None:
    """With a byte order mark, and with every number a floating-point one."""
    model = build_adapter(tmp_path, BASE, layers_to_transform=[1], rank_pattern={"q_proj": 3})
    alike = digest_of(tmp_path)
    edit_config(tmp_path, r=8.0, layers_to_transform=[1.0], rank_pattern={"q_proj": 3.0})
    file = tmp_path / CONFIG_NAME
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert_same_deltas(packed_deltas(tmp_path), peft_deltas(model))
    assert digest_of(tmp_path) == alike


def test_a_symlinked_file_is_read_as_hub_caches_have_them(good_adapter: Path) -> None:
    weights = good_adapter / WEIGHTS_NAME
    weights.rename(good_adapter / "blob")
    weights.symlink_to("blob")
    assert read_adapter(adapter_ref(good_adapter), SITES, max_rank=8).matrices
