"""Reads a config.json's rotary embedding, in the spelling of transformers 4 or of transformers 5.

4: `rope_theta` and `rope_scaling` side by side, the kind under `rope_type` or `type`.
5: `rope_parameters` holds all of it. Where several spellings are present they must agree.
"""

from typing import Any

from lorax_serve.engine.models.json_fields import JsonFields
from lorax_serve.engine.models.registry import refusal
from lorax_serve.engine.models.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    RopeConfig,
    YarnScaling,
    yarn_attention_factor,
)

DEFAULT_THETA = 10000.0  # of every family we serve
_ORIGINAL_LENGTH = "original_max_position_embeddings"


def read_rope(fields: JsonFields, max_position_embeddings: int) -> RopeConfig:
    """Raises ModelRefused for an unknown kind, an unknown field, or spellings that disagree."""
    section = _section(fields)
    if section is None:
        return RopeConfig(theta=fields.number("rope_theta", DEFAULT_THETA))
    theta = _agreed("rope_theta", fields.get("rope_theta"), section.get("rope_theta"))
    if theta is not None:
        theta = (section if section.get("rope_theta") else fields).number("rope_theta")
    if section.number("partial_rotary_factor", 1.0) != 1.0:
        raise refusal("its rotary embedding turns a part of each head (partial_rotary_factor)")
    _agreed(_ORIGINAL_LENGTH, fields.get(_ORIGINAL_LENGTH), section.get(_ORIGINAL_LENGTH))
    scaling = _scaling(section, max_position_embeddings)
    if section.unread:
        raise refusal(f"its rope scaling has unknown fields: {', '.join(section.unread)}")
    return RopeConfig(theta=DEFAULT_THETA if theta is None else theta, scaling=scaling)


def _section(fields: JsonFields) -> JsonFields | None:
    old, new = fields.section("rope_scaling"), fields.section("rope_parameters")
    if old is not None and new is not None:
        _agreed("rope scaling", fields.get("rope_scaling"), fields.get("rope_parameters"))
    section = old if new is None else new
    if fields.get(_ORIGINAL_LENGTH) is not None and (
        section is None or section.get(_ORIGINAL_LENGTH) is None
    ):
        raise refusal(f"{_ORIGINAL_LENGTH} stands outside the rope scaling, which is ambiguous")
    return section


def _agreed(name: str, *values: Any) -> Any:
    """The value given, None when there is none; refused when two differ."""
    given = [value for value in values if value is not None]
    if any(value != given[0] for value in given):
        raise refusal(f"{name} is given twice, as {given[0]} and {given[1]}")
    return given[0] if given else None


def _scaling(
    section: JsonFields, max_position_embeddings: int
) -> LinearScaling | Llama3Scaling | YarnScaling | None:
    kind = _agreed("rope type", section.text("rope_type"), section.text("type"))
    match kind:
        case "default" | None:
            return None
        case "linear":
            return LinearScaling(section.number("factor"))
        case "llama3":
            return _llama3(section)
        case "yarn":
            return _yarn(section, max_position_embeddings)
    raise refusal(f"its rope type is {kind!r}; default, linear, llama3 and yarn are known")


def _llama3(section: JsonFields) -> Llama3Scaling:
    scaling = Llama3Scaling(
        factor=section.number("factor"),
        low_freq_factor=section.number("low_freq_factor"),
        high_freq_factor=section.number("high_freq_factor"),
        original_max_position_embeddings=section.integer(_ORIGINAL_LENGTH),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise refusal("its rope scaling's high_freq_factor does not exceed low_freq_factor")
    return scaling


def _yarn(section: JsonFields, max_position_embeddings: int) -> YarnScaling:
    factor = section.number("factor")
    mscales = section.get("mscale"), section.get("mscale_all_dim")
    derived = yarn_attention_factor(factor)
    if None not in mscales:
        derived = yarn_attention_factor(
            factor, section.number("mscale"), section.number("mscale_all_dim")
        )
    return YarnScaling(
        factor=factor,
        original_max_position_embeddings=section.integer(_ORIGINAL_LENGTH, max_position_embeddings),
        beta_fast=section.number("beta_fast", 32.0),
        beta_slow=section.number("beta_slow", 1.0),
        attention_factor=section.number("attention_factor", derived),
        truncate=section.boolean("truncate", True),
    )
