"""The planned attention against its definition, and the definition against plain torch."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.kernels.attention_batch import AttentionBatch
from lorax_serve.kernels.attention_plan import MAX_GROUP_KEYS, MAX_PADDING, plan_attention
from lorax_serve.kernels.attention_reference import paged_attention_reference
from lorax_serve.kernels.paged_attention import paged_attention, write_kv
from paged_batches import attention_batch

HEAD_DIM = 8
SCALE = 0.3


@dataclass
class Case:
    q: torch.Tensor
    cache: torch.Tensor
    batch: AttentionBatch

    def run(self, window: int | None) -> torch.Tensor:
        plan = plan_attention(self.batch, self.cache, sliding_window=window)
        return paged_attention(self.q, self.cache, plan, scale=SCALE)

    def reference(self, window: int | None) -> torch.Tensor:
        return paged_attention_reference(
            self.q, self.cache, self.batch, scale=SCALE, sliding_window=window
        )


def _case(
    sequences: Sequence[tuple[int, int]],  # (rows, keys)
    *,
    num_kv_heads: int = 2,
    num_groups: int = 3,
    block_size: int = 4,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Random keys in shuffled blocks; every place that no sequence owns holds NaN."""
    generator = torch.Generator().manual_seed(len(sequences))
    num_blocks = 3 + sum(-(-keys // block_size) for _, keys in sequences)
    free = random.Random(0).sample(range(num_blocks), num_blocks)
    cache = torch.full((num_blocks, block_size, 2, num_kv_heads, HEAD_DIM), float("nan")).to(dtype)
    tables, indptr = [], [0]
    for rows, keys in sequences:
        table = [free.pop() for _ in range(-(-keys // block_size))]
        slots = torch.tensor(
            [table[p // block_size] * block_size + p % block_size for p in range(keys)]
        )
        write_kv(
            torch.randn(keys, 2, num_kv_heads, HEAD_DIM, generator=generator).to(dtype),
            cache,
            slots,
        )
        tables.append(table)
        indptr.append(indptr[-1] + rows)
    batch = attention_batch([], tables, indptr, [keys for _, keys in sequences])
    q = torch.randn(indptr[-1], num_kv_heads * num_groups, HEAD_DIM, generator=generator)
    return Case(q.to(dtype), cache, batch)


@st.composite
def _sequences(draw: st.DrawFn) -> list[tuple[int, int]]:
    keys = draw(st.lists(st.integers(1, 70), min_size=1, max_size=8))
    return [(draw(st.one_of(st.just(1), st.integers(1, n))), n) for n in keys]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    sequences=_sequences(),
    window=st.none() | st.integers(1, 80),
    num_kv_heads=st.integers(1, 3),
    num_groups=st.integers(1, 3),
    block_size=st.sampled_from([1, 4, 16]),
)
def test_planned_attention_equals_its_definition(
    sequences: list[tuple[int, int]],
    window: int | None,
    num_kv_heads: int,
    num_groups: int,
    block_size: int,
) -> None:
    case = _case(sequences, num_kv_heads=num_kv_heads, num_groups=num_groups, block_size=block_size)
    torch.testing.assert_close(case.run(window), case.reference(window), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_the_definition_equals_dense_attention(window: int | None) -> None:
    """One sequence whose blocks are in order is ordinary attention."""
    rows, keys = 6, 11
    case = _case([(rows, keys)], num_kv_heads=2, num_groups=2, block_size=keys)
    [block] = case.batch.block_tables[0].tolist()
    k, v = case.cache[block].permute(1, 2, 0, 3)
    visible = torch.ones(keys, keys).tril() - torch.ones(keys, keys).tril(-(window or keys))
    expected = torch.nn.functional.scaled_dot_product_attention(
        case.q.transpose(0, 1).unsqueeze(0),
        k.unsqueeze(0),
        v.unsqueeze(0),
        attn_mask=visible[keys - rows :].bool(),
        scale=SCALE,
        enable_gqa=True,
    )
    torch.testing.assert_close(case.reference(window), expected[0].transpose(0, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_caches(dtype: torch.dtype) -> None:
    case = _case([(1, 30), (1, 9), (12, 25)], dtype=dtype)
    actual = case.run(None)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, case.reference(None), atol=2e-2, rtol=2e-2)


def test_decodes_of_like_length_share_a_group_and_keep_their_order() -> None:
    case = _case([(1, 40), (1, 60), (1, 50)])
    [group] = plan_attention(case.batch, case.cache, sliding_window=None).groups
    assert group.rows == slice(0, 3)
    assert group.num_keys == 60


def test_a_long_sequence_does_not_pad_short_ones() -> None:
    case = _case([(1, 10), (1, MAX_PADDING + 50), (1, 12)])
    plan = plan_attention(case.batch, case.cache, sliding_window=None)
    assert [group.num_keys for group in plan.groups] == [MAX_PADDING + 50, 12]
    torch.testing.assert_close(case.run(None), case.reference(None))


def test_a_window_bounds_what_is_copied() -> None:
    case = _case([(1, 500), (8, 300)])
    plan = plan_attention(case.batch, case.cache, sliding_window=16)
    assert [group.num_keys for group in plan.groups] == [16, 23]
    torch.testing.assert_close(case.run(16), case.reference(16))


def test_the_copy_is_bounded() -> None:
    case = _case([(1, 1500)] * 5)
    plan = plan_attention(case.batch, case.cache, sliding_window=None)
    assert plan.scratch.shape[0] <= MAX_GROUP_KEYS
    torch.testing.assert_close(case.run(None), case.reference(None), atol=1e-5, rtol=1e-5)


def test_write_kv_writes_its_slots_only() -> None:
    cache = torch.zeros(3, 2, 2, 1, HEAD_DIM)
    kv = torch.arange(2 * 2 * HEAD_DIM).view(2, 2, 1, HEAD_DIM) + 1.0
    write_kv(kv, cache, torch.tensor([5, 0]))
    assert torch.equal(cache[2, 1], kv[0])
    assert torch.equal(cache[0, 0], kv[1])
    assert cache.count_nonzero() == kv.numel()
