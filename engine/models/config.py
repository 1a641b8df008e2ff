"""Our own reading of a Hugging Face config.json. No remote code: `auto_map` is never followed.

Three sorts of field: those that set a value of ModelConfig; those that would change the maths in a
way we cannot honour, which must hold a harmless value or be absent; and all others, which the
published Llama, Mistral and Qwen code does not read either (see unhonoured_fields.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from lorax_serve.engine.models.json_fields import JsonFields, read_json
from lorax_serve.engine.models.registry import Family, find_family, refusal
from lorax_serve.engine.models.rope_fields import read_rope
from lorax_serve.engine.models.rope_scaling import RopeConfig, YarnScaling
from lorax_serve.engine.models.unhonoured_fields import ignored_fields, refuse_harmful_fields

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything the decoder needs to know about a model."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    layer_windows: tuple[int | None, ...]  # per layer: keys a row sees, itself included; None: all
    qkv_bias: bool
    output_bias: bool  # of attention's output projection
    mlp_bias: bool
    qk_norm: bool  # queries and keys are normalised per head before the rotation
    tie_word_embeddings: bool
    max_position_embeddings: int  # positions a sequence may have, rope scaling included
    dtype: torch.dtype  # the checkpoint's own, float32 where it does not say
    ignored_fields: tuple[str, ...]  # of config.json; neither honoured nor known to matter


def load_model_config(folder: Path) -> ModelConfig:
    """Reads `folder`/config.json. Raises ModelRefused, naming the field we cannot honour."""
    if not folder.is_dir():
        raise refusal(f"{folder} is not a folder")
    return parse_model_config(read_json(folder / "config.json"))


def parse_model_config(fields: JsonFields) -> ModelConfig:
    """From what a config.json holds. Raises ModelRefused."""
    family = find_family(fields.text("model_type"), fields.texts("architectures"))
    refuse_harmful_fields(fields)
    return _model_config(fields, family)


def _model_config(fields: JsonFields, family: Family) -> ModelConfig:
    hidden_size = fields.integer("hidden_size")
    num_layers = fields.integer("num_hidden_layers")
    num_heads = fields.integer("num_attention_heads")
    max_position_embeddings = fields.integer("max_position_embeddings")
    rope = read_rope(fields, max_position_embeddings)
    qkv_bias, output_bias = family.qkv_bias, False
    if qkv_bias is None:
        qkv_bias = output_bias = fields.boolean("attention_bias", False)
    return ModelConfig(
        architecture=family.architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(fields, family, num_heads),
        head_dim=_head_dim(fields, family, hidden_size, num_heads),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=rope,
        layer_windows=_layer_windows(fields, family, num_layers),
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=family.has_mlp_bias_field and fields.boolean("mlp_bias", False),
        qk_norm=family.qk_norm,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        max_position_embeddings=_context_length(rope, max_position_embeddings),
        dtype=_dtype(fields),
        ignored_fields=ignored_fields(fields),
    )


def _num_kv_heads(fields: JsonFields, family: Family, num_heads: int) -> int:
    default = family.default_num_kv_heads
    if default is None or fields.is_null("num_key_value_heads"):
        default = num_heads
    num_kv_heads = fields.integer("num_key_value_heads", default)
    if num_heads % num_kv_heads:
        raise refusal(f"{num_heads} attention heads cannot share {num_kv_heads} key-value heads")
    return num_kv_heads


def _head_dim(fields: JsonFields, family: Family, hidden_size: int, num_heads: int) -> int:
    default = family.default_head_dim
    if default is None or fields.is_null("head_dim"):
        default = hidden_size // num_heads
        if fields.get("head_dim") is None and hidden_size % num_heads:
            raise refusal(f"hidden_size {hidden_size} is no multiple of {num_heads} heads")
    head_dim = fields.integer("head_dim", default)
    if head_dim % 2:
        raise refusal(f"its head size {head_dim} is odd, and rotary embedding needs pairs")
    return head_dim


def _layer_windows(fields: JsonFields, family: Family, num_layers: int) -> tuple[int | None, ...]:
    window, first_windowed = _window(fields, family), 0
    if family.has_layer_windows and window is not None:
        first_windowed = fields.integer("max_window_layers", 28, minimum=0)
    windows = tuple(window if i >= first_windowed else None for i in range(num_layers))
    layer_types = fields.texts("layer_types")
    if not layer_types:
        return windows
    if family.has_layer_windows and window is not None:
        windows = tuple(window if kind == "sliding_attention" else None for kind in layer_types)
    implied = tuple("full_attention" if w is None else "sliding_attention" for w in windows)
    if implied != layer_types or len(windows) != num_layers:
        raise refusal("its layer_types do not fit its sliding window fields or number of layers")
    return windows


def _window(fields: JsonFields, family: Family) -> int | None:
    """The one sliding window of the model, on whichever layers."""
    if family.has_layer_windows and not fields.boolean("use_sliding_window", False):
        return None
    if not (family.has_window or family.has_layer_windows):
        if fields.get("sliding_window") is not None:
            raise refusal("its config.json sets sliding_window, which this architecture has not")
        return None
    if fields.is_null("sliding_window"):
        return None
    return fields.integer("sliding_window", family.default_window)


def _context_length(rope: RopeConfig, max_position_embeddings: int) -> int:
    """YaRN configs may still give the length before scaling."""
    if not isinstance(rope.scaling, YarnScaling):
        return max_position_embeddings
    scaled = rope.scaling.original_max_position_embeddings * rope.scaling.factor
    return max(max_position_embeddings, int(scaled))


def _dtype(fields: JsonFields) -> torch.dtype:
    new, old = fields.text("dtype"), fields.text("torch_dtype")
    name = new or old or "float32"
    dtype = DTYPES.get(name.removeprefix("torch."))
    if dtype is None:
        raise refusal(f"its weights are {name}")
    return dtype


def load_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """All end-of-sequence ids: generation_config.json's, else config.json's; () without any.

    Raises ModelRefused when a file cannot be read or the field is neither an id nor a list of ids.
    """
    files = [folder / "generation_config.json", folder / "config.json"]
    for file in files:
        if file.exists():
            ids = _eos_token_ids(read_json(file))
            if ids:
                return ids
    return ()


def _eos_token_ids(fields: JsonFields) -> tuple[int, ...]:
    value = fields.get("eos_token_id")
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if any(type(item) is not int or item < 0 for item in ids):
        raise fields.wrong("eos_token_id", value, "a token id or a list of them")
    return tuple(dict.fromkeys(ids))
