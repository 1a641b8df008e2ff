"""The rotary frequencies of a model, scaled for contexts longer than it was first trained on.

Legend: D head size, L0 original context length, s factor; f_i = theta^(-2i / D) for i < D / 2.
"""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Position interpolation, arXiv 2306.15595: f_i / s."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: waves longer than L0 / low are slowed by s, those shorter than L0 / high kept.

    Between the two, f_i is a blend, linear in L0 / wavelength.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN, arXiv 2309.00071, section 3: interpolation by parts, and sharper attention."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    attention_factor: float  # multiplies sine and cosine
    truncate: bool  # round the ramp's ends to whole dimensions


@dataclass(frozen=True, slots=True)
class RopeConfig:
    theta: float
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None

    @property
    def attention_factor(self) -> float:
        return self.scaling.attention_factor if isinstance(self.scaling, YarnScaling) else 1.0


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> torch.Tensor:
    """Radians per position of each pair of features: [D / 2] float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / rope.theta**exponents
    match rope.scaling:
        case None:
            return frequencies
        case LinearScaling():
            return frequencies / rope.scaling.factor
        case Llama3Scaling():
            return _llama3(frequencies, rope.scaling)
        case YarnScaling():
            return _yarn(frequencies, rope.scaling, rope.theta)


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    # How often each wave turns within the original context.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / span).clamp(0.0, 1.0)
    return frequencies * (kept + (1.0 - kept) / scaling.factor)


def _yarn(frequencies: torch.Tensor, scaling: YarnScaling, theta: float) -> torch.Tensor:
    head_dim = 2 * len(frequencies)

    def dimension_turning(turns: float) -> float:
        """The (fractional) pair whose wave turns this often within the original context."""
        length = scaling.original_max_position_embeddings
        return head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension_turning(scaling.beta_fast), dimension_turning(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    # Published code widens an empty ramp by 0.001, which makes it a step.
    width = high - low if high != low else 0.001
    pairs = torch.arange(len(frequencies), dtype=torch.float32)
    interpolated = ((pairs - low) / width).clamp(0.0, 1.0)
    return frequencies * (1.0 - interpolated + interpolated / scaling.factor)


def yarn_attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """`0.1 m ln s + 1` (YaRN eq. 22); with both mscales given, the ratio of the two."""

    def temperature(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    if mscale is not None and mscale_all_dim is not None:
        return temperature(mscale) / temperature(mscale_all_dim)
    return temperature(1.0)
