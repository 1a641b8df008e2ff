"""Rotary position embedding, plain torch, in the half-split layout of Hugging Face checkpoints.

Formula: Su et al., "RoFormer", arXiv 2104.09864. Feature i and feature i + D/2 of a head are the
two coordinates turned by the angle `position * inverse_frequency[i]`:

    y[i]       = x[i] cos(a_i)       - x[i + D/2] sin(a_i)
    y[i + D/2] = x[i + D/2] cos(a_i) + x[i] sin(a_i)

Legend: T rows, N heads, D head size.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a step's rows are turned by; the same for every layer."""

    cos: torch.Tensor  # [T, 1, D] float32
    signed_sin: torch.Tensor  # [T, 1, D] float32; the first half is negated


def rotation(positions: torch.Tensor, inverse_frequencies: torch.Tensor, scale: float) -> Rotation:
    """Angles of `positions` [T] under `inverse_frequencies` [D/2] float32.

    `scale` multiplies sine and cosine (YaRN's attention factor; 1 otherwise).
    """
    angles = positions.to(torch.float32).unsqueeze(-1) * inverse_frequencies
    cos, sin = angles.cos() * scale, angles.sin() * scale
    return Rotation(
        cos=torch.cat((cos, cos), dim=-1).unsqueeze(1),
        signed_sin=torch.cat((-sin, sin), dim=-1).unsqueeze(1),
    )


def apply_rope_(x: torch.Tensor, rotation: Rotation) -> None:
    """Turn every head of x [T, N, D] in place, in float32."""
    # Rolling by half a head puts each feature's partner in its place, in a copy.
    partner = x.roll(x.shape[-1] // 2, dims=-1)
    if x.dtype == torch.float32:
        torch.addcmul(x * rotation.cos, partner, rotation.signed_sin, out=x)
    else:
        x.copy_(torch.addcmul(x * rotation.cos, partner.float(), rotation.signed_sin))
