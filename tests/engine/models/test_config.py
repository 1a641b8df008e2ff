"""config.json: what is read, in every spelling, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lorax_serve.engine.errors import ModelRefused
from lorax_serve.engine.models.config import ModelConfig, load_eos_token_ids, load_model_config
from lorax_serve.engine.models.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    RopeConfig,
    YarnScaling,
)
from tiny_models import VARIANTS, build_tiny_model

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 1000,
}
MISTRAL = LLAMA | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "num_key_value_heads": 2,
}
QWEN2 = LLAMA | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "num_key_value_heads": 2,
}
QWEN3 = QWEN2 | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
LLAMA3_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 500,
}


def _load(folder: Path, values: dict[str, Any]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(values))
    return load_model_config(folder)


def _refusal(folder: Path, values: dict[str, Any]) -> str:
    with pytest.raises(ModelRefused) as error:
        _load(folder, values)
    return str(error.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reads_what_transformers_wrote(variant: str, tmp_path: Path) -> None:
    oracle = build_tiny_model(variant, tmp_path).config
    config = load_model_config(tmp_path)
    assert config.architecture == oracle.architectures[0]
    assert config.num_kv_heads == oracle.num_key_value_heads
    assert config.tie_word_embeddings == oracle.tie_word_embeddings
    assert config.rms_norm_eps == oracle.rms_norm_eps
    assert config.rope.theta == oracle.rope_theta
    assert config.ignored_fields == ()


def test_defaults_of_the_families(tmp_path: Path) -> None:
    llama = _load(tmp_path, LLAMA)
    assert (llama.num_kv_heads, llama.head_dim, llama.rms_norm_eps) == (4, 8, 1e-6)
    assert llama.rope == RopeConfig(theta=10000.0, scaling=None)
    assert not (llama.qkv_bias or llama.output_bias or llama.mlp_bias or llama.qk_norm)
    assert not llama.tie_word_embeddings
    assert llama.layer_windows == (None, None, None)
    assert llama.dtype == torch.float32

    mistral = _load(tmp_path, MISTRAL)
    assert mistral.layer_windows == (4096, 4096, 4096)
    qwen2 = _load(tmp_path, QWEN2)
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm) == (True, False, False)
    qwen3 = _load(tmp_path, QWEN3)
    assert (qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim) == (False, True, 128)


def test_null_means_the_derived_value(tmp_path: Path) -> None:
    config = _load(tmp_path, MISTRAL | {"num_key_value_heads": None, "sliding_window": None})
    assert config.num_kv_heads == 4
    assert config.layer_windows == (None, None, None)
    assert _load(tmp_path, QWEN3 | {"head_dim": None}).head_dim == 8


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_checkpoint_dtype(name: str, tmp_path: Path) -> None:
    assert _load(tmp_path, LLAMA | {name: "bfloat16"}).dtype == torch.bfloat16
    assert "float8_e4m3fn" in _refusal(tmp_path, LLAMA | {name: "float8_e4m3fn"})


def test_biases(tmp_path: Path) -> None:
    config = _load(tmp_path, LLAMA | {"attention_bias": True, "mlp_bias": True})
    assert config.qkv_bias and config.output_bias and config.mlp_bias


def test_qwen_windows(tmp_path: Path) -> None:
    windowed = {"use_sliding_window": True, "sliding_window": 16}
    by_count = _load(tmp_path, QWEN2 | windowed | {"max_window_layers": 2})
    assert by_count.layer_windows == (None, None, 16)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    by_kind = _load(tmp_path, QWEN2 | windowed | {"layer_types": kinds})
    assert by_kind.layer_windows == (16, None, 16)
    unused = _load(tmp_path, QWEN2 | {"use_sliding_window": False, "sliding_window": 16})
    assert unused.layer_windows == (None, None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE | {"rope_type": "llama3"}},
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE | {"type": "llama3"}},
        {"rope_parameters": LLAMA3_ROPE | {"rope_type": "llama3", "rope_theta": 500000.0}},
        {
            "rope_theta": 500000.0,
            "rope_parameters": LLAMA3_ROPE | {"rope_type": "llama3", "type": "llama3"},
        },
    ],
)
def test_rope_in_every_spelling(changes: dict[str, Any], tmp_path: Path) -> None:
    rope = _load(tmp_path, LLAMA | changes).rope
    assert rope == RopeConfig(500000.0, Llama3Scaling(8.0, 1.0, 4.0, 500))


def test_default_rope_parameters(tmp_path: Path) -> None:
    changes = {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}
    assert _load(tmp_path, LLAMA | changes).rope == RopeConfig(77.0)


def test_linear_rope(tmp_path: Path) -> None:
    changes = {"rope_scaling": {"type": "linear", "factor": 4}}
    config = _load(tmp_path, LLAMA | changes)
    assert config.rope.scaling == LinearScaling(4.0)
    assert config.max_position_embeddings == 1000


def test_yarn_extends_the_context(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 600}
    config = _load(tmp_path, LLAMA | {"rope_scaling": yarn})
    assert isinstance(config.rope.scaling, YarnScaling)
    assert config.max_position_embeddings == 2400
    del yarn["original_max_position_embeddings"]
    assert _load(tmp_path, LLAMA | {"rope_scaling": yarn}).max_position_embeddings == 4000


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"model_type": None}, "model_type is None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act to gelu"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"sliding_window": 128}, "sliding_window"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 30}, "hidden_size 30"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"num_key_value_heads": 3}, "3 key-value heads"),
        ({"head_dim": 7}, "head size 7"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"layer_types": ["full_attention"] * 2}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "'longrope'"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "given twice"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": -1.0}}, "factor is -1.0"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}},
            "mrope_section",
        ),
        ({"rope_scaling": [2.0]}, "rope_scaling"),
        ({"rope_scaling": LLAMA3_ROPE | {"type": "llama3", "low_freq_factor": 4.0}}, "high_freq"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ({"rope_parameters": {"rope_theta": 1.0}, "rope_theta": 2.0}, "rope_theta is given twice"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {}},
            "rope scaling is given twice",
        ),
        (
            {
                "rope_scaling": {"type": "yarn", "factor": 2.0},
                "original_max_position_embeddings": 10,
            },
            "original_max_position_embeddings",
        ),
    ],
)
def test_refusals_name_the_field_and_what_is_served(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    message = _refusal(tmp_path, LLAMA | changes)
    assert named in message
    assert "LlamaForCausalLM" in message and "Qwen3ForCausalLM" in message


def test_a_mistral_with_alternating_layers_is_refused(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert "layer_types" in _refusal(tmp_path, MISTRAL | {"layer_types": kinds})


@pytest.mark.parametrize("content", ["", "[]", "{", "null", b"\xff\xfe"])
def test_broken_files_are_refused(content: str | bytes, tmp_path: Path) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ModelRefused, match=r"config\.json"):
        load_model_config(tmp_path)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"config\.json cannot be read"):
        load_model_config(tmp_path)
    with pytest.raises(ModelRefused, match="is not a folder"):
        load_model_config(tmp_path / "nowhere")


def test_remote_code_is_ignored_and_strange_fields_are_reported(tmp_path: Path) -> None:
    changes = {"auto_map": {"AutoConfig": "evil.Config"}, "is_llama_config": True}
    assert _load(tmp_path, LLAMA | changes).ignored_fields == ("is_llama_config",)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [5, 6, 5]}, {"eos_token_id": 2}, (5, 6)),
        ({"eos_token_id": 0}, {"eos_token_id": 2}, (0,)),
        ({"temperature": 1.0}, {"eos_token_id": [2, 3]}, (2, 3)),
        (None, {"eos_token_id": 2}, (2,)),
        (None, {"eos_token_id": None}, ()),
        (None, {}, ()),
    ],
)
def test_eos_token_ids(
    generation: dict[str, Any] | None,
    config: dict[str, Any],
    expected: tuple[int, ...],
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert load_eos_token_ids(tmp_path) == expected


@pytest.mark.parametrize("value", ["</s>", [2, "x"], -1, True, 2.0])
def test_strange_eos_token_ids_are_refused(value: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ModelRefused, match="eos_token_id"):
        load_eos_token_ids(tmp_path)
