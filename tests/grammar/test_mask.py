import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance.numpy import apply_token_bitmask_inplace

from lorax_serve.grammar.mask import allocate_bitmask, apply_mask


@given(
    vocab_size=st.integers(1, 130),
    num_rows=st.integers(1, 6),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_equals_llguidance_on_the_named_rows_and_leaves_the_others(
    vocab_size: int, num_rows: int, seed: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, num_rows - 1), unique=True))
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_rows, vocab_size)).astype(np.float32)
    words = (vocab_size + 31) // 32
    bitmask = rng.integers(-(2**31), 2**31, size=(len(rows), words)).astype(np.int32)

    expected = logits.copy()
    if rows:
        masked = expected[rows]
        apply_token_bitmask_inplace(masked, bitmask)
        expected[rows] = masked
    actual = torch.from_numpy(logits.copy())
    apply_mask(actual, torch.from_numpy(bitmask), torch.tensor(rows, dtype=torch.int64))
    np.testing.assert_array_equal(actual.numpy(), expected)


@pytest.mark.parametrize("token_id", [0, 7, 8, 31, 32, 39])
def test_one_bit_allows_one_token(token_id: int) -> None:
    bitmask = allocate_bitmask(1, 40)
    bitmask[0, token_id // 32] = int(np.uint32(1 << token_id % 32).astype(np.int32))
    logits = torch.zeros(2, 40)
    apply_mask(logits, bitmask, torch.tensor([1]))
    assert logits[0].tolist() == [0.0] * 40
    assert torch.isfinite(logits[1]).nonzero().flatten().tolist() == [token_id]


def test_a_mask_cut_from_a_wider_one_is_read_right() -> None:
    wide = torch.full((2, 4), -1, dtype=torch.int32)
    wide[:, 0] = 1
    logits = torch.zeros(2, 40)
    apply_mask(logits, wide[:, :2], torch.tensor([0, 1]))
    assert torch.isfinite(logits).sum(1).tolist() == [9, 9]  # token 0, and 32 to 39


def test_a_fresh_bitmask_allows_nothing() -> None:
    bitmask = allocate_bitmask(3, 65)
    assert (bitmask.shape, bitmask.dtype) == ((3, 3), torch.int32)
    logits = torch.zeros(3, 65)
    apply_mask(logits, bitmask, torch.arange(3))
    assert torch.isneginf(logits).all()


@pytest.mark.parametrize(
    ("logits", "bitmask", "rows", "said"),
    [
        (
            torch.zeros(2, 40, dtype=torch.float16),
            allocate_bitmask(1, 40),
            torch.tensor([0]),
            r"expected logits \[N, V\] float32, got \[2, 40\] float16",
        ),
        (
            torch.zeros(40),
            allocate_bitmask(1, 40),
            torch.tensor([0]),
            r"expected logits \[N, V\] float32, got \[40\] float32",
        ),
        (
            torch.zeros(2, 40),
            allocate_bitmask(1, 65),
            torch.tensor([0]),
            r"expected bitmask \[1, 2\] int32, got \[1, 3\] int32",
        ),
        (
            torch.zeros(2, 40),
            allocate_bitmask(2, 40),
            torch.tensor([0]),
            r"expected bitmask \[1, 2\] int32, got \[2, 2\] int32",
        ),
        (
            torch.zeros(2, 40),
            torch.zeros(1, 2, dtype=torch.int64),
            torch.tensor([0]),
            r"expected bitmask \[1, 2\] int32, got \[1, 2\] int64",
        ),
        (
            torch.zeros(2, 40),
            allocate_bitmask(1, 40),
            torch.tensor([0], dtype=torch.int32),
            r"expected rows \[G\] int64, got \[1\] int32",
        ),
        (
            torch.zeros(2, 40, device="meta"),
            allocate_bitmask(1, 40),
            torch.tensor([0]),
            "expected one device, got meta, cpu and cpu",
        ),
    ],
)
def test_other_shapes_types_and_devices_are_refused(
    logits: torch.Tensor, bitmask: torch.Tensor, rows: torch.Tensor, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        apply_mask(logits, bitmask, rows)
