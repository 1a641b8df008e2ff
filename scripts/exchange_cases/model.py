"""A random Llama and random adapters for it: small, but read, packed and run like any other."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorax_serve.engine.models.config import ModelConfig, parse_model_config
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.models.json_fields import JsonFields
from lorax_serve.engine.models.loader import allocate_model
from lorax_serve.ipc.types import AdapterRef

RANK = 8


def model_config(hidden_size: int, num_layers: int) -> ModelConfig:
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    return parse_model_config(JsonFields(fields, "config.json"))


def random_model(config: ModelConfig) -> Decoder:
    model, tensors = allocate_model(config, device=torch.device("cpu"), dtype=torch.float32)
    torch.manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        else:
            tensor.normal_(std=0.1)
    return model


def write_adapters(folder: Path, model: Decoder, count: int) -> list[AdapterRef]:
    """Adapters on every linear but the head, each with weights of its own."""
    return [write_adapter(folder / f"adapter-{index}", model, index) for index in range(count)]


def write_adapter(folder: Path, model: Decoder, seed: int, *, revision: str = "1") -> AdapterRef:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for site in model.sites:
        for target in site.targets:
            if target.module == "lm_head":
                continue
            prefix = f"base_model.model.{target.module}"
            for name, shape in (
                ("lora_A", (RANK, site.in_features)),
                ("lora_B", (target.out_features, RANK)),
            ):
                values = torch.randn(shape, generator=generator)
                tensors[f"{prefix}.{name}.weight"] = values * (0.5 / shape[1]) ** 0.5
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    suffixes = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": suffixes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return AdapterRef(folder.name, str(folder), revision)


def adapter_bytes(model: Decoder) -> int:
    """What one of them takes in a tier."""
    columns = sum(
        site.in_features + target.out_features
        for site in model.sites
        for target in site.targets
        if target.module != "lm_head"
    )
    # A_cat is stacked per target, so each target counts its own rows of A.
    return -(-4 * RANK * columns // 256) * 256
