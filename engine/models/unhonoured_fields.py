"""The config.json fields we do not honour: which must hold a harmless value, which may be ignored.

The published Llama, Mistral and Qwen code reads no field that is not named here or in config.py, so
any other field is without effect; it is still reported, in `ModelConfig.ignored_fields`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lorax_serve.engine.models.json_fields import JsonFields
from lorax_serve.engine.models.registry import refusal

# Field -> the values that leave our maths right. Null is always one.
_MUST_BE_HARMLESS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "quantization_config": (),
        "compression_config": (),
        "hidden_act": ("silu",),
        "hidden_activation": ("silu",),
        "num_experts": (0,),
        "num_local_experts": (0,),
        "n_routed_experts": (0,),
        "num_experts_per_tok": (0,),
        "moe_intermediate_size": (0,),
        "partial_rotary_factor": (1,),
        "rotary_pct": (1,),
        "rope_interleaved": (False,),
        "rope_condense_ratio": (1,),
        "use_mrope": (False,),
        "no_rope_layers": ([],),
        "no_rope_layer_interval": (0,),
        "attn_temperature_tuning": (False,),
        "attn_logit_softcapping": (),
        "final_logit_softcapping": (),
        "query_pre_attn_scalar": (),
        "attention_chunk_size": (),
        "attention_multiplier": (),
        "embedding_multiplier": (1,),
        "residual_multiplier": (1,),
        "logits_scaling": (1,),
        "logit_scale": (1,),
        "clip_qkv": (),
        "qk_layernorm": (False,),
        "use_qk_norm": (False,),
        "use_bias": (False,),
        "use_parallel_residual": (False,),
        "use_bidirectional_attention": (False,),
        "is_causal": (True,),
        "is_encoder_decoder": (False,),
        "add_cross_attention": (False,),
        "cross_attention_layers": ([],),
        "pruned_heads": ({},),
        "text_config": (),
        "vision_config": (),
    }
)

# Written by tools, about training, storage or generation, or of another family; never reported.
_BOOKKEEPING = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_name_or_path",
        "attention_bias",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "eos_token_id",
        "initializer_range",
        "max_window_layers",
        "mlp_bias",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "return_dict",
        "sliding_window",
        "task_specific_params",
        "tokenizer_class",
        "transformers_version",
        "unk_token_id",
        "use_cache",
        "use_sliding_window",
    }
)


def refuse_harmful_fields(fields: JsonFields) -> None:
    """Raises ModelRefused for a field that asks for maths we do not do."""
    for name, harmless in _MUST_BE_HARMLESS.items():
        value = fields.get(name)
        if value is not None and value not in harmless:
            raise refusal(f"its config.json sets {name} to {str(value)[:80]}")


def ignored_fields(fields: JsonFields) -> tuple[str, ...]:
    """Fields nothing has read so far, apart from well-known bookkeeping."""
    return tuple(name for name in fields.unread if name not in _BOOKKEEPING)
