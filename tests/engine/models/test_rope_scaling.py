"""Frequencies and rotation against transformers, far beyond the original context length."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lorax_serve.engine.models.json_fields import JsonFields
from lorax_serve.engine.models.rope_fields import read_rope
from lorax_serve.engine.models.rope_scaling import inverse_frequencies
from lorax_serve.kernels.rope import rotation

LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
POSITIONS = torch.tensor([0, 1, 2, 511, 8191, 8192, 40000, 131071])


@pytest.mark.parametrize(
    ("theta", "scaling"),
    [
        (10000.0, None),
        (10000.0, {"rope_type": "default"}),
        (10000.0, {"rope_type": "linear", "factor": 8.0}),
        (10000.0, {"type": "linear", "factor": 2.5}),
        (500000.0, LLAMA31),
        (500000.0, LLAMA31 | {"factor": 32.0}),
        (500000.0, LLAMA31 | {"low_freq_factor": 2.0, "high_freq_factor": 3.0}),
        (1000000.0, YARN),
        (1000000.0, YARN | {"attention_factor": 0.7}),
        (1000000.0, YARN | {"beta_fast": 40.0, "beta_slow": 2.0}),
        (1000000.0, YARN | {"mscale": 1.0, "mscale_all_dim": 0.8}),
        (1000000.0, YARN | {"truncate": False}),
        (10000.0, YARN | {"beta_fast": 1e-9, "beta_slow": 1e-10}),  # an empty ramp
        (10000.0, {"rope_type": "yarn", "factor": 2.0}),  # original length: the model's
    ],
)
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_equals_transformers(theta: float, scaling: dict[str, Any] | None, head_dim: int) -> None:
    oracle = LlamaRotaryEmbedding(
        LlamaConfig(
            head_dim=head_dim,
            max_position_embeddings=131072,
            rope_theta=theta,
            rope_scaling=None if scaling is None else dict(scaling),
        )
    )
    rope = read_rope(
        JsonFields({"rope_theta": theta, "rope_scaling": scaling}, "config.json"), 131072
    )
    frequencies = inverse_frequencies(rope, head_dim)
    torch.testing.assert_close(frequencies, oracle.inv_freq, rtol=1e-6, atol=0)
    cos, sin = oracle(torch.zeros(1), POSITIONS.unsqueeze(0))
    turn = rotation(POSITIONS, oracle.inv_freq, rope.attention_factor)
    torch.testing.assert_close(turn.cos.squeeze(1), cos[0])
    half = head_dim // 2
    torch.testing.assert_close(turn.signed_sin.squeeze(1)[:, half:], sin[0, :, half:])
    torch.testing.assert_close(-turn.signed_sin.squeeze(1)[:, :half], sin[0, :, :half])
