"""Attention of prompt chunks, and of mixed steps, on a GPU against its definition."""

from dataclasses import replace

import pytest
import torch

from attention_cases import LLAMA, AttentionCase, Shape
from devices import DEVICES
from lorax_serve.kernels.triton.attention import TritonAttention

BACKEND = TritonAttention(num_sms=132)
TALL_TILES = TritonAttention(num_sms=1)
CUDA = torch.device("cuda")

STEPS = {
    "whole_prompt": [(70, 70)],
    "chunk": [(20, 150)],
    "two_rows": [(2, 65)],
    "prompts": [(64, 64), (3, 90), (33, 33)],
    "mixed": [(1, 140), (1, 1), (17, 40), (50, 130)],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [None, 1, 30])
@pytest.mark.parametrize("block_size", [16, 64])
@pytest.mark.parametrize("step", STEPS)
def test_steps(step: str, block_size: int, window: int | None, device: torch.device) -> None:
    case = AttentionCase.of(Shape(block_size=block_size), STEPS[step], device)
    case.check(BACKEND, window)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", [BACKEND, TALL_TILES], ids=["short", "tall"])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(num_kv_heads=3, group=1, head_dim=16, dtype=torch.float16),
        Shape(num_kv_heads=1, group=7, head_dim=64, dtype=torch.float16, block_size=32),
        Shape(num_kv_heads=1, group=40, head_dim=96, block_size=64),
        Shape(num_kv_heads=2, group=4, head_dim=128, dtype=torch.float16, block_size=128),
        Shape(num_kv_heads=1, group=4, head_dim=128, block_size=256),
        Shape(num_kv_heads=2, group=3, head_dim=8, block_size=4),
    ],
    ids=str,
)
def test_shapes(shape: Shape, backend: TritonAttention, device: torch.device) -> None:
    AttentionCase.of(shape, [(1, 9), (45, 110)], device).check(backend)


@pytest.mark.gpu
@pytest.mark.parametrize("block_size", [16, 64, 256])
@pytest.mark.parametrize("window", [None, 1000])
@pytest.mark.parametrize(
    "step",
    [
        [(1024, 1024), (512, 4096), (2, 3000)],
        [(1, 4096), (1, 1), (1, 333), (16, 16), (300, 2048)],
        [(10, 4000)],
    ],
    ids=["prompts", "mixed", "suffix"],
)
def test_steps_at_the_size_of_llama(
    step: list[tuple[int, int]], window: int | None, block_size: int
) -> None:
    AttentionCase.of(replace(LLAMA, block_size=block_size), step, CUDA).check(BACKEND, window)
