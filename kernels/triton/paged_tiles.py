"""What the attention kernels share: keys are read in tiles, each found through the block table."""

import triton
import triton.language as tl

# Bytes of one tile of keys. Three programs of a multiprocessor have room for two tiles of keys and
# of values each: enough reads in flight to keep the memory busy.
TILE_BYTES = 16384
# Half the stages are spent on looking up blocks before keys can be read: five give two tiles ahead.
NUM_STAGES = 5


@triton.jit
def tile_slots(table_ptr, first_key, end_key, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Places in the cache of keys first_key .. first_key + BLOCK_N - 1 of a sequence, int64.

    first_key is a multiple of BLOCK_N and less than end_key; places from end_key on are not valid.
    """
    offsets = tl.arange(0, BLOCK_N)
    if BLOCK_SIZE >= BLOCK_N:
        block = tl.load(table_ptr + first_key // BLOCK_SIZE).to(tl.int64)
        slots = block * BLOCK_SIZE + first_key % BLOCK_SIZE + offsets
    else:
        keys = first_key + offsets
        blocks = tl.load(table_ptr + keys // BLOCK_SIZE, mask=keys < end_key, other=0)
        slots = blocks.to(tl.int64) * BLOCK_SIZE + keys % BLOCK_SIZE
    return slots


def tile_keys(padded_head_dim: int, itemsize: int) -> int:
    """Keys of a tile of TILE_BYTES, at least 16, at most 128."""
    return min(max(TILE_BYTES // (padded_head_dim * itemsize), 16), 128)


def padded_head_dim(head_dim: int) -> int:
    """The power of two, at least 16, that holds a head."""
    return max(triton.next_power_of_2(head_dim), 16)
