"""Checkpoints of every kind load; anything missing, extra or misshapen is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorax_serve.engine.errors import ModelRefused
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.models.loader import load_model
from paged_batches import PagedModel, PagedSequence
from tiny_models import build_tiny_model

PROMPT = list(range(3, 33))
Tensors = dict[str, torch.Tensor]


def _load(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    report: Callable[[float], None] = lambda fraction: None,
) -> Decoder:
    return load_model(folder, device=torch.device("cpu"), dtype=dtype, report=report)


def _logits(decoder: Decoder) -> torch.Tensor:
    [logits] = PagedModel(decoder).step([(PagedSequence(PROMPT), len(PROMPT))])
    return logits


def _edit(folder: Path, edit: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_checkpoints_of_every_dtype_are_served_in_float32(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    written = build_tiny_model("llama_biases", tmp_path, dtype=dtype)
    oracle = type(written).from_pretrained(tmp_path, dtype=torch.float32)
    decoder = _load(tmp_path)
    assert decoder.config.dtype == dtype
    with torch.inference_mode():
        expected = oracle(torch.tensor([PROMPT])).logits[0]
    torch.testing.assert_close(_logits(decoder), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["llama_untied", "llama"])
def test_sharded_equals_single(variant: str, tmp_path: Path) -> None:
    build_tiny_model(variant, tmp_path / "single")
    build_tiny_model(variant, tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert torch.equal(_logits(_load(tmp_path / "single")), _logits(_load(tmp_path / "sharded")))


@pytest.mark.parametrize("variant", ["llama", "llama_untied", "qwen3_biases"])
def test_parameters_are_counted_once(variant: str, tmp_path: Path) -> None:
    oracle = build_tiny_model(variant, tmp_path)
    assert _load(tmp_path).num_parameters == oracle.num_parameters()


def test_tied_embeddings_share_memory(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    decoder = _load(tmp_path)
    assert decoder.lm_head.weight.data_ptr() == decoder.embedding.data_ptr()


def test_progress_goes_from_zero_to_one(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    fractions: list[float] = []
    _load(tmp_path, report=fractions.append)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert fractions == sorted(fractions)
    assert len(fractions) > 10


def test_tolerated_extra_tensors(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    expected = _logits(_load(tmp_path))

    def add(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = torch.zeros(320, 64)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
        tensors["model.rotary_emb.inv_freq"] = torch.zeros(8)

    _edit(tmp_path, add)
    assert torch.equal(_logits(_load(tmp_path)), expected)


def _rename(old: str, new: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({new: tensors.pop(old)})


def _replace(name: str, tensor: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


K_PROJ = "model.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda tensors: tensors.pop(K_PROJ), [f"lack {K_PROJ}"]),
        (lambda tensors: tensors.pop("model.norm.weight"), ["model.norm.weight"]),
        (_replace("model.extra", torch.zeros(1)), ["unexpected", "model.extra"]),
        (_replace("model.layers.0.mlp.up_proj.bias", torch.zeros(96)), ["mlp.up_proj.bias"]),
        (_replace("model.layers.2.mlp.up_proj.weight", torch.zeros(1)), ["model.layers.2.mlp"]),
        (_replace(K_PROJ, torch.zeros(64, 64)), [K_PROJ, "[64, 64]", "[32, 64]"]),
        (_replace(K_PROJ, torch.zeros(32, 64, dtype=torch.int8)), [K_PROJ, "int8"]),
        (_replace(K_PROJ, torch.zeros(32, 64, dtype=torch.float64)), [K_PROJ, "float64"]),
        (_rename("model.norm.weight", "norm.weight"), ["unexpected", "norm.weight"]),
    ],
)
def test_wrong_tensors_are_refused(
    edit: Callable[[Tensors], object], named: list[str], tmp_path: Path
) -> None:
    build_tiny_model("llama", tmp_path)
    _edit(tmp_path, edit)
    with pytest.raises(ModelRefused) as error:
        _load(tmp_path)
    assert all(name in str(error.value) for name in named)
    assert "Supported are" in str(error.value)


def test_an_untied_model_needs_its_head(tmp_path: Path) -> None:
    build_tiny_model("llama_untied", tmp_path)
    _edit(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(ModelRefused, match=r"lack lm_head\.weight"):
        _load(tmp_path)


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    _edit(tmp_path, lambda tensors: [tensors.pop(name) for name in list(tensors)[1:]])
    with pytest.raises(ModelRefused, match=r"and 14 more"):
        _load(tmp_path)


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    _edit(tmp_path, lambda tensors: tensors[K_PROJ].fill_(1e6))
    with pytest.raises(ModelRefused, match=f"{K_PROJ} has values beyond float16"):
        _load(tmp_path, torch.float16)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"neither model\.safetensors nor"):
        _load(tmp_path)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    with pytest.raises(ModelRefused, match=r"model\.safetensors cannot be read"):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ({}, "no weight_map"),
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": {"a": "../model.safetensors"}}, "../model.safetensors"),
        ({"weight_map": {"a": "model.bin"}}, "model.bin"),
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors"),
    ],
)
def test_broken_indexes_are_refused(index: dict[str, object], named: str, tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelRefused) as error:
        _load(tmp_path)
    assert named in str(error.value)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(data)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelRefused, match="is in two of its files"):
        _load(tmp_path)
