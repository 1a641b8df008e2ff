"""Flash-attention over our cache against the definition, where there is a GPU that has it."""

from dataclasses import replace

import pytest
import torch

from attention_cases import LLAMA, AttentionCase, Shape
from devices import relative_error
from lorax_serve.kernels.attention_backend import AttentionBackend
from lorax_serve.kernels.flash_support import supports

CUDA = torch.device("cuda")
STEPS = {
    "decodes": [(1, 4096), (1, 1), (1, 256), (1, 257)],
    "prompts": [(1024, 1024), (512, 3000), (2, 300)],
    "mixed": [(1, 4096), (1, 77), (16, 16), (300, 2048)],
}


@pytest.fixture
def backend() -> AttentionBackend:
    pytest.importorskip("flash_attn")
    from lorax_serve.kernels.flash_attention import FlashAttention

    return FlashAttention()


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 1000])
@pytest.mark.parametrize(
    "shape",
    [
        LLAMA,
        replace(LLAMA, block_size=512, dtype=torch.float16),
        Shape(num_kv_heads=3, group=1, head_dim=64, block_size=256, dtype=torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("step", STEPS)
def test_steps(step: str, shape: Shape, window: int | None, backend: AttentionBackend) -> None:
    assert supports(shape.dtype, shape.head_dim, shape.block_size) is None
    AttentionCase.of(shape, STEPS[step], CUDA).check(backend, window)


@pytest.mark.gpu
def test_a_captured_graph_follows_lengths(backend: AttentionBackend) -> None:
    case = AttentionCase.of(LLAMA, [(1, 4096), (1, 700), (1, 2000)], CUDA)
    q = case.q.contiguous()
    attend = backend.bind(case.batch, case.cache)

    def run() -> torch.Tensor:
        return attend(q, case.cache, scale=LLAMA.scale, sliding_window=None)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    case.batch.context_lens.copy_(torch.tensor([5, 699, 257], dtype=torch.int32))
    graph.replay()
    assert relative_error(out, case.expected(None)) < LLAMA.tolerance
    case.batch.context_lens.copy_(torch.tensor([5, 0, 257], dtype=torch.int32))
    graph.replay()
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "head_dim", "block_size", "reason"),
    [
        (torch.bfloat16, 128, 256, None),
        (torch.float16, 64, 512, None),
        (torch.float32, 128, 256, "not torch.float32"),
        (torch.bfloat16, 96, 256, "not 96"),
        (torch.bfloat16, 128, 16, "not 16"),
    ],
)
def test_what_it_cannot_compute_is_refused_by_name(
    dtype: torch.dtype, head_dim: int, block_size: int, reason: str | None
) -> None:
    answer = supports(dtype, head_dim, block_size)
    assert answer is None if reason is None else answer is not None and reason in answer
