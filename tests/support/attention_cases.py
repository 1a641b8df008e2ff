"""Queries and a paged cache for attention backends, everything that is no one's being NaN."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from devices import relative_error
from lorax_serve.kernels.attention_backend import AttentionBackend
from lorax_serve.kernels.attention_batch import AttentionBatch
from lorax_serve.kernels.attention_reference import paged_attention_reference
from lorax_serve.kernels.paged_attention import write_kv
from paged_batches import attention_batch

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Shape:
    num_kv_heads: int = 2
    group: int = 2
    head_dim: int = 32
    block_size: int = 16
    dtype: torch.dtype = torch.float32

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.dtype]

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5


LLAMA = Shape(num_kv_heads=8, group=4, head_dim=128, block_size=256, dtype=torch.bfloat16)


@dataclass(frozen=True)
class AttentionCase:
    shape: Shape
    q: torch.Tensor  # [T, H, D], rows strided as where queries, keys and values are one tensor
    cache: torch.Tensor
    batch: AttentionBatch

    @staticmethod
    def of(
        shape: Shape, sequences: Sequence[tuple[int, int]], device: torch.device, seed: int = 0
    ) -> "AttentionCase":
        """`sequences` are (rows, keys), decodes first; their blocks lie scattered."""
        generator = torch.Generator(device).manual_seed(seed)
        num_blocks = 3 + sum(-(-keys // shape.block_size) for _, keys in sequences)
        free = random.Random(seed).sample(range(num_blocks), num_blocks)
        cache = torch.full(
            (num_blocks, shape.block_size, 2, shape.num_kv_heads, shape.head_dim),
            float("nan"),
            dtype=shape.dtype,
            device=device,
        )
        tables, indptr = [], [0]
        for rows, keys in sequences:
            table = [free.pop() for _ in range(-(-keys // shape.block_size))]
            size = (keys, 2, shape.num_kv_heads, shape.head_dim)
            kv = torch.randn(size, generator=generator, device=device)
            positions = torch.arange(keys)
            blocks = torch.tensor(table, dtype=torch.int64)[positions // shape.block_size]
            slots = blocks * shape.block_size + positions % shape.block_size
            write_kv(kv.to(shape.dtype), cache, slots.to(device))
            tables.append(table)
            indptr.append(indptr[-1] + rows)
        num_heads = shape.num_kv_heads * shape.group
        size = (indptr[-1], num_heads + 2 * shape.num_kv_heads, shape.head_dim)
        qkv = torch.randn(size, generator=generator, device=device).to(shape.dtype)
        batch = attention_batch([], tables, indptr, [keys for _, keys in sequences])
        return AttentionCase(shape, qkv[:, :num_heads], cache, batch_on(batch, device))

    def run(self, backend: AttentionBackend, window: int | None) -> torch.Tensor:
        attend = backend.bind(self.batch, self.cache)
        return attend(self.q, self.cache, scale=self.shape.scale, sliding_window=window)

    def expected(self, window: int | None) -> torch.Tensor:
        return paged_attention_reference(
            self.q.float(),
            self.cache.float(),
            self.batch,
            scale=self.shape.scale,
            sliding_window=window,
        )

    def check(self, backend: AttentionBackend, window: int | None = None) -> None:
        got = self.run(backend, window)
        assert got.shape == self.q.shape
        assert got.dtype == self.q.dtype
        assert relative_error(got, self.expected(window)) < self.shape.tolerance


def batch_on(batch: AttentionBatch, device: torch.device) -> AttentionBatch:
    return replace(
        batch,
        slot_mapping=batch.slot_mapping.to(device),
        block_tables=batch.block_tables.to(device),
        query_indptr=batch.query_indptr.to(device),
        context_lens=batch.context_lens.to(device),
    )
