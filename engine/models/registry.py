"""The model families we serve, and what their config.json leaves unsaid."""

from dataclasses import dataclass

from lorax_serve.engine.errors import ModelRefused


@dataclass(frozen=True, slots=True)
class Family:
    """One `model_type`. Defaults are those of the family's published configuration class."""

    model_type: str
    architecture: str
    models: str  # for people
    default_num_kv_heads: int | None = None  # None: as many as query heads
    default_head_dim: int | None = None  # None: hidden size / heads
    qkv_bias: bool | None = None  # None: `attention_bias` says so, for the output projection too
    has_mlp_bias_field: bool = False  # `mlp_bias`
    qk_norm: bool = False
    has_window: bool = False  # `sliding_window` holds for every layer
    has_layer_windows: bool = False  # `use_sliding_window`, `max_window_layers`, `layer_types`
    default_window: int | None = None


FAMILIES: tuple[Family, ...] = (
    Family(
        model_type="llama",
        architecture="LlamaForCausalLM",
        models="Llama 2, 3, 3.1, 3.2, 3.3, SmolLM2 and others of that shape",
        has_mlp_bias_field=True,
    ),
    Family(
        model_type="mistral",
        architecture="MistralForCausalLM",
        models="Mistral 7B and Nemo",
        default_num_kv_heads=8,
        qkv_bias=False,
        has_window=True,
        default_window=4096,
    ),
    Family(
        model_type="qwen2",
        architecture="Qwen2ForCausalLM",
        models="Qwen2, Qwen2.5",
        default_num_kv_heads=32,
        qkv_bias=True,
        has_layer_windows=True,
        default_window=4096,
    ),
    Family(
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        models="Qwen3 (dense)",
        default_num_kv_heads=32,
        default_head_dim=128,
        qk_norm=True,
        has_layer_windows=True,
        default_window=4096,
    ),
)

SUPPORTED_MODELS = "; ".join(f"{family.architecture} ({family.models})" for family in FAMILIES)


def refusal(reason: str) -> ModelRefused:
    """The error for a model we cannot serve: the reason, then what we can serve."""
    return ModelRefused(
        f"This model cannot be served: {reason}. Supported are {SUPPORTED_MODELS}; "
        "unquantized safetensors in bfloat16, float16 or float32."
    )


def find_family(model_type: str | None, architectures: tuple[str, ...]) -> Family:
    """The family of a config.json, or ModelRefused."""
    for family in FAMILIES:
        if family.model_type != model_type:
            continue
        if architectures in ((), (family.architecture,)):
            return family
        raise refusal(f"its architecture is {', '.join(architectures)}")
    raise refusal(f"its model_type is {model_type!r}")
