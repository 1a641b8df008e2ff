"""Turning heads and writing the paged cache in one launch, against the torch twin."""

from dataclasses import dataclass

import pytest
import torch

from decoder_twins import GPU_BF16, PLACES, TOLERANCE, Twins, normal
from devices import relative_error
from lorax_serve.kernels.rope import Rotation, rotation

BLOCK_SIZE = 8
UNTOUCHED = -99.0  # no key or value is, and no NaN of a padded row passes for it


@dataclass(frozen=True)
class Heads:
    num_heads: int
    num_kv_heads: int
    head_dim: int


LLAMA = Heads(32, 8, 128)
SHAPES = {
    "llama": Heads(8, 2, 128),
    "d64": Heads(9, 3, 64),
    "d96": Heads(3, 3, 96),
    "d16": Heads(4, 1, 16),
    "d256": Heads(5, 1, 256),
    "d80": Heads(2, 1, 80),
}


class Inputs:
    """Random rows, and a cache with room for twice as many. Slot -1 would be in `memory` too."""

    def __init__(
        self, heads: Heads, num_rows: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.heads = heads
        width = heads.num_heads + 2 * heads.num_kv_heads
        self.qkv = normal(num_rows, width, heads.head_dim, device=device, dtype=dtype, seed=0)
        num_blocks = -(-2 * num_rows // BLOCK_SIZE)
        shape = (1 + num_blocks, BLOCK_SIZE, 2, heads.num_kv_heads, heads.head_dim)
        self.memory = torch.full(shape, UNTOUCHED, dtype=dtype, device=device)
        self.cache = self.memory[1:]
        generator = torch.Generator().manual_seed(1)
        slots = torch.randperm(num_blocks * BLOCK_SIZE, generator=generator)[:num_rows]
        self.slots = slots.to(device)
        positions = torch.randint(0, 8192, (num_rows,), generator=generator)
        frequencies = torch.logspace(0, -4, heads.head_dim // 2)
        turn = rotation(positions, frequencies, 1.2)
        self.turn = Rotation(turn.cos.to(device), turn.signed_sin.to(device))

    def written(self) -> torch.Tensor:
        """What the cache holds at the rows' slots, [T, 2, K, D]."""
        return self.cache.flatten(0, 1)[self.slots]


def check(device: torch.device, dtype: torch.dtype, heads: Heads, num_rows: int) -> None:
    inputs, expected = (Inputs(heads, num_rows, device, dtype) for _ in range(2))
    twins = Twins.on(device)
    for kernels, given in ((twins.kernels, inputs), (twins.twin, expected)):
        kernels.rope_and_write_kv(given.qkv, given.turn, given.cache, given.slots)
    assert relative_error(inputs.qkv, expected.qkv) < TOLERANCE[dtype]
    kv = inputs.qkv[:, heads.num_heads :].view_as(inputs.written())
    assert torch.equal(inputs.written(), kv)
    values = inputs.qkv[:, heads.num_heads + heads.num_kv_heads :]
    assert torch.equal(values, expected.qkv[:, heads.num_heads + heads.num_kv_heads :])
    assert torch.equal(inputs.memory == UNTOUCHED, expected.memory == UNTOUCHED)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_equals_the_twin(device: torch.device, dtype: torch.dtype, name: str) -> None:
    check(device, dtype, SHAPES[name], num_rows=5)


@pytest.mark.parametrize("num_rows", [1, 256, 16384])
@pytest.mark.parametrize(("device", "dtype"), [GPU_BF16])
def test_equals_the_twin_large(device: torch.device, dtype: torch.dtype, num_rows: int) -> None:
    check(device, dtype, LLAMA, num_rows)


@pytest.mark.parametrize("slot_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("device", "dtype"), PLACES)
def test_padding_is_written_nowhere(
    device: torch.device, dtype: torch.dtype, slot_dtype: torch.dtype
) -> None:
    """Padded rows hold NaN, as memory that nobody wrote may; other rows are as without them."""
    inputs, alone = (Inputs(SHAPES["d64"], 6, device, dtype) for _ in range(2))
    padded = torch.tensor([1, 4, 5], device=device)
    others = torch.tensor([0, 2, 3], device=device)
    inputs.qkv[padded] = float("nan")
    slots = inputs.slots.clone()
    slots[padded] = -1
    kernels = Twins.on(device).kernels
    kernels.rope_and_write_kv(inputs.qkv, inputs.turn, inputs.cache, slots.to(slot_dtype))
    kernels.rope_and_write_kv(alone.qkv, alone.turn, alone.cache, alone.slots)
    assert torch.equal(inputs.qkv[others], alone.qkv[others])
    assert torch.equal(inputs.written()[others], alone.written()[others])
    touched = (inputs.memory.flatten(0, 1) != UNTOUCHED).flatten(1)
    assert touched.all(dim=1).sum() == touched.any(dim=1).sum() == len(others)


@pytest.mark.parametrize(("device", "dtype"), [GPU_BF16])
def test_a_cache_of_more_than_two_to_the_31_elements(
    device: torch.device, dtype: torch.dtype
) -> None:
    heads = Heads(2, 1, 128)
    inputs = Inputs(heads, 3, device, dtype)
    num_blocks = 2**31 // (BLOCK_SIZE * 2 * heads.head_dim) + 1
    cache = torch.zeros(num_blocks, *inputs.cache.shape[1:], dtype=dtype, device=device)
    last = num_blocks * BLOCK_SIZE - 1
    slots = torch.tensor([last, -1, 0], device=device, dtype=torch.int32)
    Twins.on(device).kernels.rope_and_write_kv(inputs.qkv, inputs.turn, cache, slots)
    written = cache.flatten(0, 1)[[last, 0]]
    assert torch.equal(written, inputs.qkv[[0, 2], heads.num_heads :].view_as(written))
    assert cache.flatten(0, 1).any(dim=-1).any(dim=-1).any(dim=-1).sum() == 2
