"""Split decode attention on a GPU against its definition."""

from dataclasses import replace

import pytest
import torch

from attention_cases import LLAMA, AttentionCase, Shape
from devices import DEVICES, relative_error
from lorax_serve.kernels.triton.attention import TritonAttention
from lorax_serve.kernels.triton.attention_decode import (
    MAX_SPLITS,
    MIN_SPLIT_KEYS,
    decode_attention,
    split_count,
)

H100_SMS = 132
ONE_SPLIT = TritonAttention(num_sms=1)
CUDA = torch.device("cuda")


def decodes(*context_lens: int) -> list[tuple[int, int]]:
    return [(1, keys) for keys in context_lens]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_splits", [1, 3, 16])
@pytest.mark.parametrize("window", [None, 1, 100])
@pytest.mark.parametrize("block_size", [16, 256])
def test_any_number_of_splits_gives_the_same(
    block_size: int, window: int | None, num_splits: int, device: torch.device
) -> None:
    case = AttentionCase.of(Shape(block_size=block_size), decodes(1, 300, 128, 129, 7), device)
    out = torch.full(case.q.shape, float("nan"), device=device)
    decode_attention(
        case.q,
        case.cache,
        case.batch.block_tables,
        case.batch.context_lens,
        out,
        num_sequences=5,
        scale=case.shape.scale,
        sliding_window=window,
        num_splits=num_splits,
    )
    assert relative_error(out, case.expected(window)) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", [ONE_SPLIT, TritonAttention(H100_SMS)], ids=["one", "split"])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(num_kv_heads=3, group=1, head_dim=16, dtype=torch.float16),
        Shape(num_kv_heads=1, group=7, head_dim=64, dtype=torch.float16, block_size=32),
        Shape(num_kv_heads=1, group=20, head_dim=96, block_size=64),
        Shape(num_kv_heads=2, group=4, head_dim=128, dtype=torch.float16, block_size=128),
        Shape(num_kv_heads=1, group=4, head_dim=128, block_size=256),
        Shape(num_kv_heads=2, group=3, head_dim=8, block_size=4),
    ],
    ids=str,
)
def test_shapes(shape: Shape, backend: TritonAttention, device: torch.device) -> None:
    AttentionCase.of(shape, decodes(260, 33, 1), device).check(backend)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", [ONE_SPLIT, TritonAttention(H100_SMS)], ids=["one", "split"])
def test_padding_of_a_graph_harms_no_one(backend: TritonAttention, device: torch.device) -> None:
    case = AttentionCase.of(Shape(), decodes(300, 40), device)
    batch = replace(
        case.batch,
        block_tables=torch.nn.functional.pad(case.batch.block_tables, (0, 5, 0, 2)),
        query_indptr=torch.arange(5, dtype=torch.int32, device=device),
        context_lens=torch.nn.functional.pad(case.batch.context_lens, (0, 2)),
        num_decodes=4,
    )
    q = torch.full((4, *case.q.shape[1:]), float("nan"), device=device)
    q[:2] = case.q
    padded = replace(case, q=q, batch=batch)
    got = padded.run(backend, None)
    assert relative_error(got[:2], case.expected(None)) < 1e-5
    assert not got[2:].any()


def test_splits_fill_the_device_and_stay_worth_combining() -> None:
    assert split_count(128, 8, 8192, H100_SMS) == 1
    assert split_count(32, 8, 8192, H100_SMS) == 4
    assert split_count(1, 8, 1024, H100_SMS) == 1024 // MIN_SPLIT_KEYS
    assert split_count(1, 8, 1 << 20, H100_SMS) == MAX_SPLITS
    assert split_count(1, 8, 16, H100_SMS) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("block_size", [16, 64, 256])
@pytest.mark.parametrize("window", [None, 1000])
@pytest.mark.parametrize("batch_size", [1, 3, 16, 128])
def test_decodes_at_the_size_of_llama(batch_size: int, window: int | None, block_size: int) -> None:
    lens = [(4096, 1, 700, 2049, 64, 65, 1023)[i % 7] for i in range(batch_size)]
    case = AttentionCase.of(replace(LLAMA, block_size=block_size), decodes(*lens), CUDA)
    case.check(TritonAttention(H100_SMS), window)


@pytest.mark.gpu
def test_a_captured_graph_follows_lengths_and_tables() -> None:
    cases = [
        AttentionCase.of(LLAMA, decodes(4096, 1, 500, 1500), CUDA, seed=1),
        AttentionCase.of(LLAMA, decodes(9, 4000, 1024, 1), CUDA, seed=2),
    ]
    # One cache for both: the second's blocks follow the first's.
    num_blocks = cases[0].cache.shape[0]
    cache = torch.cat([case.cache for case in cases])
    tables = [cases[0].batch.block_tables, cases[1].batch.block_tables + num_blocks]
    q = cases[0].q.contiguous()
    batch = replace(cases[0].batch, block_tables=tables[0].clone())
    attend = TritonAttention(H100_SMS).bind(batch, cache)

    def run() -> torch.Tensor:
        return attend(q, cache, scale=LLAMA.scale, sliding_window=None)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    for case, table in zip(cases, tables, strict=True):
        expected = case.expected(None)
        q.copy_(case.q)
        batch.block_tables.copy_(table)
        batch.context_lens.copy_(case.batch.context_lens)
        out.fill_(float("nan"))
        graph.replay()
        assert relative_error(out, expected) < LLAMA.tolerance
