"""A Llama of two layers, small enough to build in a moment, and its LoRA sites."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lorax_serve.kernels.lora import LoraSite, LoraTarget


def tiny_llama(*, tied: bool = False, seed: int = 0, **config: Any) -> LlamaForCausalLM:
    """A two-layer Llama with random float32 weights and grouped-query attention."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    }
    shape = {**sizes, "tie_word_embeddings": tied, **config}
    model: LlamaForCausalLM = LlamaForCausalLM(LlamaConfig(**shape))  # type: ignore[no-untyped-call]
    model.eval()  # type: ignore[no-untyped-call]
    return model


def lora_sites(model: LlamaForCausalLM) -> tuple[LoraSite, ...]:
    """The sites of a Llama-family transformers model, q/k/v and gate/up fused."""
    fused = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    )
    groups = [
        [f"model.layers.{layer}.{module}" for module in modules]
        for layer in range(model.config.num_hidden_layers)
        for modules in fused
    ]
    groups.append(["lm_head"])
    return tuple(_site(index, model, modules) for index, modules in enumerate(groups))


def _site(index: int, model: torch.nn.Module, modules: list[str]) -> LoraSite:
    targets, start = [], 0
    in_features = 0
    for module in modules:
        out_features, in_features = model.get_parameter(f"{module}.weight").shape
        targets.append(LoraTarget(module, start, out_features))
        start += out_features
    return LoraSite(index, in_features, tuple(targets))


BASE = tiny_llama()
SITES = lora_sites(BASE)
