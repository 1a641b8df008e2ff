import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from lorax_serve.kernels.rope import apply_rope_, rotation

HEAD_DIM = 16
POSITIONS = torch.tensor([0, 1, 2, 77, 4095, 131071])


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_equals_transformers(scale: float) -> None:
    x = torch.randn(len(POSITIONS), 3, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    embedding = LlamaRotaryEmbedding(LlamaConfig(head_dim=HEAD_DIM))
    cos, sin = embedding(x, POSITIONS.unsqueeze(0))
    expected, _ = apply_rotary_pos_emb(
        x.transpose(0, 1).unsqueeze(0), x.transpose(0, 1).unsqueeze(0), cos * scale, sin * scale
    )
    apply_rope_(x, rotation(POSITIONS, embedding.inv_freq, scale))
    torch.testing.assert_close(x, expected[0].transpose(0, 1))


def test_sixteen_bit_input_is_turned_in_float32() -> None:
    exact = torch.randn(len(POSITIONS), 2, HEAD_DIM, generator=torch.Generator().manual_seed(1))
    rounded = exact.bfloat16()
    exact = rounded.float()
    turn = rotation(POSITIONS, torch.logspace(0, -3, HEAD_DIM // 2), 1.0)
    apply_rope_(exact, turn)
    apply_rope_(rounded, turn)
    assert torch.equal(rounded, exact.bfloat16())


def test_only_the_given_heads_are_turned() -> None:
    """A view of a wider row, as the decoder passes it."""
    row = torch.ones(1, 4, HEAD_DIM)
    apply_rope_(row[:, :3], rotation(torch.tensor([5]), torch.ones(HEAD_DIM // 2), 1.0))
    assert torch.equal(row[:, 3], torch.ones(1, HEAD_DIM))
    assert not torch.isclose(row[:, :3], torch.ones(1)).any()
