"""Turns the demo model's GGUF file into a normal Hugging Face folder. Run as a module.

    python -P -m lorax_serve.engine.models.demo_conversion <file.gguf> <new folder>

Only what the demo needs is read: the llama architecture with tied embeddings, and the byte-level
BPE tokenizer of SmolLM. Anything else is refused. Weights are dequantized to float32 and stored as
bfloat16. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lorax_serve.engine.errors import ModelRefused

GLOBAL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
LAYER_TENSORS = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def convert(gguf_file: Path, out_dir: Path) -> None:
    """Writes config, weights and tokenizer of `gguf_file` into the new folder `out_dir`.

    Raises ModelRefused for a GGUF file of another architecture or tokenizer, and FileExistsError
    when `out_dir` is there already.
    """
    reader = GGUFReader(gguf_file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    _refuse_other_kinds(fields)
    config = model_config(fields)
    weights = _weights(reader, config)
    out_dir.mkdir(parents=True)
    save_file(weights, out_dir / "model.safetensors", metadata={"format": "pt"})
    _write_json(out_dir / "config.json", config)
    _write_json(out_dir / "generation_config.json", _generation_config(fields))
    tokenizer(fields).save(str(out_dir / "tokenizer.json"))
    _write_json(out_dir / "special_tokens_map.json", _special_tokens(fields))
    _write_json(out_dir / "tokenizer_config.json", _tokenizer_config(fields))


def model_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json that the GGUF fields describe."""
    num_heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // num_heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rope_theta": _shortest(fields["llama.rope.freq_base"]),
        "rope_scaling": None,
        "rms_norm_eps": _shortest(fields["llama.attention.layer_norm_rms_epsilon"]),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        **_generation_config(fields),
    }


def tokenizer(fields: Mapping[str, Any]) -> Tokenizer:
    """The byte-level BPE tokenizer; digits are always tokens of their own (SmolLM's rule)."""
    tokens: Sequence[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in _control_tokens(fields)]
    )
    return built


def _refuse_other_kinds(fields: Mapping[str, Any]) -> None:
    expected = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.add_bos_token": False,
    }
    for name, value in expected.items():
        if fields.get(name) != value:
            raise ModelRefused(
                f"The GGUF file is not the demo model: {name} is {fields.get(name)!r}, "
                f"not {value!r}."
            )


def _weights(reader: GGUFReader, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor of the file under its Hugging Face name, bfloat16. None missing, none left."""
    names = dict(GLOBAL_TENSORS)
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in LAYER_TENSORS.items():
            names[f"blk.{layer}.{ours}"] = f"model.layers.{layer}.{theirs}"
    odd = names.keys() ^ {tensor.name for tensor in reader.tensors}
    if odd:
        raise ModelRefused(f"The GGUF file's tensors are not those of a llama: {sorted(odd)[:5]}.")
    weights: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith("attn_q.weight"):
            values = _half_rotary(values, config["num_attention_heads"])
        elif tensor.name.endswith("attn_k.weight"):
            values = _half_rotary(values, config["num_key_value_heads"])
        as_float32 = np.array(values, dtype=np.float32, order="C")
        weights[names[tensor.name]] = torch.from_numpy(as_float32).to(torch.bfloat16)
    return weights


def _half_rotary(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Reorders q or k rows, `[num_heads * head_dim, in]`, from GGUF's layout to Hugging Face's.

    GGUF rotates neighbouring rows (2i, 2i+1) of a head together; Hugging Face's Llama rotates row
    i of the first half with row i of the second half.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _control_tokens(fields: Mapping[str, Any]) -> list[str]:
    kinds = zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True)
    return [token for token, kind in kinds if kind == TokenType.CONTROL]


def _generation_config(fields: Mapping[str, Any]) -> dict[str, int]:
    return {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _special_tokens(fields: Mapping[str, Any]) -> dict[str, Any]:
    tokens: Sequence[str] = fields["tokenizer.ggml.tokens"]
    return {
        "additional_special_tokens": [
            tokens[fields["tokenizer.ggml.bos_token_id"]],
            tokens[fields["tokenizer.ggml.eos_token_id"]],
        ],
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
    }


def _tokenizer_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer_class": "GPT2TokenizerFast",
        "add_prefix_space": False,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        **_special_tokens(fields),
        "chat_template": fields["tokenizer.chat_template"],
    }


def _shortest(value: float) -> float:
    """The shortest decimal with this float32 value: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="demo_conversion", description=convert.__doc__)
    parser.add_argument("gguf_file", type=Path)
    parser.add_argument("out_dir", type=Path)
    given = parser.parse_args(arguments)
    try:
        convert(given.gguf_file, given.out_dir)
    except (ModelRefused, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
