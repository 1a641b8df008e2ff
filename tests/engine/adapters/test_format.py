"""Reading PEFT folders: what they mean equals PEFT, and what cannot be used is refused by name."""

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import peft_adapters
from lorax_serve.engine.adapters import format as format_module
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.slab import slab_matrices
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import ErrorCode
from peft_adapters import (
    BAD_ADAPTERS,
    MAX_RANK,
    BadAdapter,
    adapter_ref,
    build_adapter,
    edit_config,
    edit_tensors,
    lora_sites,
    tiny_llama,
)
from random_lora import pack

BASE = tiny_llama()
SITES = lora_sites(BASE)
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


def packed_deltas(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """B A of every module, from the packed slab."""
    weights = read_adapter(adapter_ref(folder), SITES, max_rank=128)
    packed = pack(weights, SITES, dtype=dtype, transposed_a=True)
    return {
        module: b_t.float().t() @ a.float()
        for module, a, b_t in slab_matrices(packed.slab, packed.layout)
    }


def peft_deltas(model: PeftModel) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if "default" in getattr(module, "lora_A", {})
    }


def assert_same_deltas(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys() and ours
    for module, expected in theirs.items():
        error = (ours[module] - expected).abs().max() / expected.abs().max()
        assert error <= 1e-6, f"{module}: {error}"


@pytest.mark.parametrize("feature", HONOURED)
def test_deltas_equal_peft(feature: str, tmp_path: Path) -> None:
    model = build_adapter(tmp_path, BASE, **HONOURED[feature])
    config = json.loads((tmp_path / peft_adapters.CONFIG_NAME).read_text())
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


@pytest.mark.parametrize(
    "stranger", ["layers.9.mlp.up_proj", "model.layers.0.mlp.up_proj", "lm_head"]
)
def test_names_with_and_without_their_beginning_do_not_mix(stranger: str, tmp_path: Path) -> None:
    targets = ["q_proj", "up_proj"]
    build_adapter(tmp_path, BASE.model, task_type="FEATURE_EXTRACTION", targets=targets)
    edit_tensors(
        tmp_path,
        lambda tensors: {
            k.replace("layers.0.mlp.up_proj", stranger): v for k, v in tensors.items()
        },
    )
    with pytest.raises(AdapterRejected, match="is not a linear of this model") as caught:
        read_adapter(adapter_ref(tmp_path), SITES, max_rank=MAX_RANK)
    assert caught.value.code is ErrorCode.ADAPTER_INCOMPATIBLE


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
    alike = digest(tmp_path)
    edit_config(tmp_path, r=8.0, layers_to_transform=[1.0], rank_pattern={"q_proj": 3.0})
    file = tmp_path / peft_adapters.CONFIG_NAME
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert_same_deltas(packed_deltas(tmp_path), peft_deltas(model))
    assert digest(tmp_path) == alike


@pytest.fixture
def good_adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    build_adapter(folder, BASE, targets=["q_proj", "v_proj"])
    return folder


@pytest.mark.parametrize("bad", BAD_ADAPTERS, ids=lambda bad: bad.name)
def test_bad_adapters_are_refused(bad: BadAdapter, good_adapter: Path) -> None:
    ref = adapter_ref(good_adapter, name="poet")
    read_adapter(ref, SITES, max_rank=MAX_RANK)
    bad.spoil(good_adapter)
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(ref, SITES, max_rank=MAX_RANK)
    assert caught.value.code is bad.code
    assert "'poet'" in caught.value.message
    assert bad.says in caught.value.message
    assert str(good_adapter) not in caught.value.message
    assert not (good_adapter / "owned").exists()


def test_every_offender_is_counted_and_as_many_shown_as_fit(good_adapter: Path) -> None:
    edit_tensors(good_adapter, lambda tensors: {name: torch.ones(3, 3) for name in tensors})
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=MAX_RANK)
    assert len(caught.value.reasons) == 8  # A and B of q and v in two layers
    assert caught.value.message.count("(2 layers)") == 3
    assert caught.value.message.endswith("; and 1 more.")


def test_long_names_from_the_file_are_cut(good_adapter: Path) -> None:
    edit_tensors(good_adapter, lambda tensors: {**tensors, "x" * 5000: torch.ones(1)})
    with pytest.raises(AdapterRejected, match="xxx…") as caught:
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=MAX_RANK)
    assert len(caught.value.message) < 400


def test_another_base_is_refused(good_adapter: Path) -> None:
    wider = lora_sites(tiny_llama(hidden_size=96))
    with pytest.raises(AdapterRejected, match=r"expected \(8, 96\)"):
        read_adapter(adapter_ref(good_adapter), wider, max_rank=MAX_RANK)
    shallower = lora_sites(tiny_llama(num_hidden_layers=1))
    with pytest.raises(AdapterRejected, match=r"layers\.1.* is not a linear"):
        read_adapter(adapter_ref(good_adapter), shallower, max_rank=MAX_RANK)


def test_a_file_that_no_adapter_could_fill_is_not_read(good_adapter: Path) -> None:
    with open(good_adapter / peft_adapters.WEIGHTS_NAME, "r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=MAX_RANK)
    assert caught.value.code is ErrorCode.ADAPTER_TOO_LARGE


# -- lm_head as PEFT saves it: with a copy of the base weight beside the matrices


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
    data = (folder / peft_adapters.WEIGHTS_NAME).read_bytes()
    return list(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))


# -- identity


def digest(folder: Path, name: str = "x") -> str:
    return read_adapter(adapter_ref(folder, name=name), SITES, max_rank=64).digest


def test_the_digest_is_of_content_not_of_place(good_adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(good_adapter, tmp_path / "elsewhere")
    assert digest(tmp_path / "elsewhere", "y") == digest(good_adapter)
    config = tmp_path / "elsewhere" / peft_adapters.CONFIG_NAME
    reordered = dict(reversed(json.loads(config.read_text()).items()))
    config.write_text(json.dumps(reordered, indent=7))
    assert digest(tmp_path / "elsewhere") == digest(good_adapter)


def test_the_digest_changes_with_config_and_weights(good_adapter: Path) -> None:
    first = digest(good_adapter)
    edit_config(good_adapter, base_model_name_or_path="elsewhere", lora_dropout=0.3)
    assert digest(good_adapter) == first
    edit_config(good_adapter, lora_alpha=17)
    second = digest(good_adapter)
    edit_tensors(good_adapter, lambda tensors: {k: v * 1.5 for k, v in tensors.items()})
    assert len({first, second, digest(good_adapter)}) == 3


# -- files that change while they are read


@pytest.mark.parametrize("victim", [peft_adapters.CONFIG_NAME, peft_adapters.WEIGHTS_NAME])
@pytest.mark.parametrize("harm", ["truncate", "replace", "delete"])
def test_files_that_change_under_our_hands_are_noticed(
    victim: str, harm: str, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_read_weights = format_module._read_weights

    def read_then_harm(folder: Path, *options: Any) -> Any:
        content = real_read_weights(folder, *options)
        file = folder / victim
        if harm == "truncate":
            file.write_bytes(file.read_bytes()[:20])
        elif harm == "replace":
            data = file.read_bytes()
            time.sleep(0.02)  # beyond the granularity of a file's times
            file.unlink()
            file.write_bytes(data)
        else:
            file.unlink()
        return content

    monkeypatch.setattr(format_module, "_read_weights", read_then_harm)
    with pytest.raises(AdapterRejected, match="changed while it was being read") as caught:
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=64)
    assert caught.value.code is ErrorCode.ADAPTER_CHANGED


def test_a_file_that_shrinks_inside_the_read_is_noticed(
    good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_fstat = os.fstat
    weights = good_adapter / peft_adapters.WEIGHTS_NAME

    def fstat_then_truncate(descriptor: int) -> os.stat_result:
        status = real_fstat(descriptor)
        if status.st_ino == weights.stat().st_ino and status.st_size > 100:
            os.truncate(weights, 100)
        return status

    monkeypatch.setattr("os.fstat", fstat_then_truncate)
    with pytest.raises(AdapterRejected, match="changed while it was being read"):
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=64)


def test_a_symlinked_file_is_read_as_hub_caches_have_them(good_adapter: Path) -> None:
    weights = good_adapter / peft_adapters.WEIGHTS_NAME
    weights.rename(good_adapter / "blob")
    weights.symlink_to("blob")
    assert read_adapter(adapter_ref(good_adapter), SITES, max_rank=8).matrices


# -- what folding the scale may do


def test_overflow_in_the_served_type_is_refused(good_adapter: Path) -> None:
    edit_config(good_adapter, lora_alpha=1e7)
    assert all(math.isfinite(d.abs().max()) for d in packed_deltas(good_adapter).values())
    with pytest.raises(AdapterRejected, match="overflows float16") as caught:
        packed_deltas(good_adapter, torch.float16)
    assert caught.value.code is ErrorCode.ADAPTER_NOT_FINITE
    edit_config(good_adapter, lora_alpha=1e300)
    with pytest.raises(AdapterRejected, match="overflows float32"):
        packed_deltas(good_adapter)


# -- of another base


@pytest.mark.parametrize(
    ("made_for", "served", "is_named"),
    [
        ("org/Big-8B", "org/tiny", True),
        ("/data/models/Big-8B/", "org/tiny", True),
        ("org/tiny", "org/tiny", False),
        ("/home/somebody/Tiny/", "org/tiny", False),
        ("somebody/tiny@main", "tiny", False),
        (None, "org/tiny", False),
        (7, "org/tiny", False),
        ("org/Big-8B", "", False),
    ],
)
def test_an_adapter_of_another_base_is_told_by_both_names(
    tmp_path: Path, made_for: object, served: str, is_named: bool
) -> None:
    build_adapter(tmp_path, tiny_llama(hidden_size=96), rank=4, targets=["q_proj"])
    edit_config(tmp_path, base_model_name_or_path=made_for)
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(adapter_ref(tmp_path), SITES, max_rank=MAX_RANK, base_model=served)
    assert caught.value.code is ErrorCode.ADAPTER_INCOMPATIBLE
    first = f"it was made for {made_for!r}, and this server serves {served!r}"
    assert (caught.value.reasons[0] == first) == is_named
    assert "has shape" in caught.value.reasons[-1]


@pytest.mark.parametrize("has_layers_too_many", [False, True])
def test_the_base_is_to_blame_for_modules_it_lacks_and_for_nothing_else(
    tmp_path: Path, has_layers_too_many: bool
) -> None:
    base = tiny_llama(num_hidden_layers=9) if has_layers_too_many else BASE
    build_adapter(tmp_path, base, rank=4, targets=["q_proj"])
    edit_config(tmp_path, base_model_name_or_path="org/other")
    if not has_layers_too_many:
        read_adapter(adapter_ref(tmp_path), SITES, max_rank=MAX_RANK, base_model="org/served")
        edit_config(tmp_path, r=5)
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(adapter_ref(tmp_path), SITES, max_rank=MAX_RANK, base_model="org/served")
    assert ("it was made for" in caught.value.message) == has_layers_too_many


def test_the_name_of_the_base_is_no_part_of_what_an_adapter_is(tmp_path: Path) -> None:
    build_adapter(tmp_path, BASE, rank=4)
    digests = set()
    for name in ("org/one", "/two", None):
        edit_config(tmp_path, base_model_name_or_path=name)
        digests.add(read_adapter(adapter_ref(tmp_path), SITES, max_rank=MAX_RANK).digest)
    assert len(digests) == 1
