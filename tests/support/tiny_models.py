"""Tiny random models of every family and variant, built by transformers: the oracle of our decoder.

Weights, biases and norm scales are all random (never transformers' ones and zeros), so that a
tensor used in the wrong place changes the logits. The same variant is the same model every time.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB_SIZE = 320
CONTEXT_LENGTH = 512
SEED = 20240607

_SHAPE: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT_LENGTH,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
)

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN_ROPE = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}


def _llama(**changes: Any) -> PretrainedConfig:
    return LlamaConfig(**{**_SHAPE, **changes})


def _mistral(**changes: Any) -> PretrainedConfig:
    return MistralConfig(**{**_SHAPE, "sliding_window": None, **changes})


def _qwen2(**changes: Any) -> PretrainedConfig:
    return Qwen2Config(**{**_SHAPE, **changes})


def _qwen3(**changes: Any) -> PretrainedConfig:
    return Qwen3Config(**{**_SHAPE, "head_dim": 32, **changes})


_CONFIGS: Mapping[str, Callable[[], PretrainedConfig]] = MappingProxyType(
    {
        "llama": _llama,
        "llama_untied": lambda: _llama(tie_word_embeddings=False),
        "llama_mha": lambda: _llama(num_key_value_heads=4),
        "llama_wide_heads": lambda: _llama(head_dim=64),
        "llama_mqa": lambda: _llama(num_key_value_heads=1),
        "llama_biases": lambda: _llama(attention_bias=True, mlp_bias=True),
        "llama_head_dim": lambda: _llama(head_dim=24),
        "llama3_rope": lambda: _llama(rope_theta=500.0, rope_scaling=dict(_LLAMA3_ROPE)),
        "llama_linear": lambda: _llama(rope_scaling={"rope_type": "linear", "factor": 4.0}),
        "llama_yarn": lambda: _llama(rope_scaling=dict(_YARN_ROPE)),
        "mistral": _mistral,
        "mistral_sliding": lambda: _mistral(sliding_window=24, tie_word_embeddings=False),
        "qwen2": _qwen2,
        "qwen2_sliding": lambda: _qwen2(
            use_sliding_window=True, sliding_window=20, max_window_layers=1
        ),
        "qwen2_yarn": lambda: _qwen2(rope_scaling=dict(_YARN_ROPE)),
        "qwen3": _qwen3,
        "qwen3_biases": lambda: _qwen3(attention_bias=True, tie_word_embeddings=False),
    }
)

VARIANTS: tuple[str, ...] = tuple(_CONFIGS)

_CLASSES: Mapping[type[PretrainedConfig], type[PreTrainedModel]] = MappingProxyType(
    {
        LlamaConfig: LlamaForCausalLM,
        MistralConfig: MistralForCausalLM,
        Qwen2Config: Qwen2ForCausalLM,
        Qwen3Config: Qwen3ForCausalLM,
    }
)


def build_tiny_model(
    variant: str,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "1GB",
) -> PreTrainedModel:
    """Writes the variant's Hugging Face folder (no tokenizer) and returns the model, in `dtype`.

    `variant` is one of VARIANTS. A small `max_shard_size` ("40KB") makes a sharded checkpoint.
    """
    config = _CONFIGS[variant]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: PreTrainedModel = _CLASSES[type(config)](config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(_random_parameter(name, parameter))
    torch.nn.Module.to(model, dtype)
    model.eval()
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model


def _random_parameter(name: str, parameter: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(parameter.shape)
    if parameter.dim() == 2:
        return noise / math.sqrt(parameter.shape[1])
    return 0.2 * noise if name.endswith("bias") else 1.0 + 0.2 * noise
