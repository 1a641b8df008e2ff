"""The CPU's element-wise parts do what the functions they are made of do, in the places asked."""

import torch

from lorax_serve.kernels.norm import rms_norm
from lorax_serve.kernels.rope import apply_rope_, rotation
from lorax_serve.kernels.torch_decoder_kernels import TorchDecoderKernels

EPS = torch.tensor(1e-5)
KERNELS = TorchDecoderKernels(EPS)
NUM_ROWS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 3, 4, 2, 16


def qkv() -> torch.Tensor:
    shape = (NUM_ROWS, NUM_HEADS + 2 * NUM_KV_HEADS, HEAD_DIM)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_queries_and_keys_are_turned_and_keys_and_values_written() -> None:
    heads, turned = qkv(), qkv()
    num_turned = NUM_HEADS + NUM_KV_HEADS
    turn = rotation(torch.tensor([0, 5, 9]), torch.logspace(0, -3, HEAD_DIM // 2), 1.0)
    apply_rope_(turned[:, :num_turned], turn)
    cache = torch.full((2, 4, 2, NUM_KV_HEADS, HEAD_DIM), float("nan"))
    slots = torch.tensor([6, 0, 3])
    KERNELS.rope_and_write_kv(heads, turn, cache, slots)
    assert torch.equal(heads, turned)
    written = cache.flatten(0, 1)
    assert torch.equal(written[slots, 0], turned[:, NUM_HEADS:num_turned])
    assert torch.equal(written[slots, 1], qkv()[:, num_turned:])
    assert written.isfinite().flatten(1).any(dim=1).nonzero().flatten().tolist() == [0, 3, 6]


def test_heads_are_normalised_in_place_and_others_left() -> None:
    heads, weight = qkv(), torch.linspace(0.5, 2.0, HEAD_DIM)
    KERNELS.rms_norm_heads_(heads[:, 1:3], weight)
    assert torch.equal(heads[:, 1:3], rms_norm(qkv()[:, 1:3], weight, EPS))
    assert torch.equal(heads[:, 3:], qkv()[:, 3:])
    assert torch.equal(heads[:, :1], qkv()[:, :1])


def test_the_residual_is_added_in_place() -> None:
    x, residual = qkv().flatten(1)[:, :64], qkv().flatten(1)[:, 64:]
    total, weight = x + residual, torch.linspace(0.5, 2.0, 64)
    y = KERNELS.add_rms_norm(x, residual, weight)
    assert torch.equal(residual, total)
    assert torch.equal(y, KERNELS.rms_norm(total, weight))
