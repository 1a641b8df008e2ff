"""How far down a row of ranked tokens its probability mass reaches, without sorting the row.

A bisection on the keys: each pass adds up the probabilities of all keys up to a candidate. First
the high half of the boundary's key is found (the cost), then its low half (the token id). A row is
one program's, so its answer does not depend on the others.

Legend: M rows, V vocabulary.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _mass_up_to(keys_ptr, probs_ptr, last_key, vocab_size, BLOCK: tl.constexpr):
    """The probability of all tokens whose key is at most `last_key`, in float64."""
    mass = tl.zeros((), dtype=tl.float64)
    for start in range(0, vocab_size, BLOCK):
        tokens = start + tl.arange(0, BLOCK)
        in_row = tokens < vocab_size
        keys = tl.load(keys_ptr + tokens, mask=in_row, other=0x7FFFFFFFFFFFFFFF)
        probs = tl.load(probs_ptr + tokens, mask=in_row & (keys <= last_key), other=0.0)
        mass += tl.sum(probs, axis=0).to(tl.float64)
    return mass


@triton.jit
def _mass_boundary_kernel(
    keys_ptr, probs_ptr, mass_ptr, out_ptr, vocab_size, ID_BITS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    keys = keys_ptr + row * vocab_size
    probs = probs_ptr + row * vocab_size
    wanted = tl.load(mass_ptr + row)
    # Invariant: the boundary's cost is in low..high. 2^31 - 1 is beyond every cost.
    low = tl.zeros((), dtype=tl.int64)
    high = low + 0x7FFFFFFF
    for _ in range(31):
        middle = (low + high) // 2
        reached = _mass_up_to(keys, probs, (middle << 32) | 0xFFFFFFFF, vocab_size, BLOCK)
        enough = reached >= wanted
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, tl.minimum(middle + 1, high))
    cost = low
    low = tl.zeros((), dtype=tl.int64)
    high = low + vocab_size - 1
    for _ in range(ID_BITS):
        middle = (low + high) // 2
        reached = _mass_up_to(keys, probs, (cost << 32) | middle, vocab_size, BLOCK)
        enough = reached >= wanted
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, tl.minimum(middle + 1, high))
    tl.store(out_ptr + row, (cost << 32) | low)


def mass_boundary(keys: torch.Tensor, probs: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """The last key of each row's shortest run of lowest keys whose probability reaches `mass`.

    keys [M, V] int64, non-negative and distinct within a row, the token id in the low 32 bits;
    probs [M, V] float32; mass [M, 1] float64; returns [M, 1] int64, which for a row that never
    reaches `mass` is beyond its last key. Sums are float32 within a block of tokens and float64
    over blocks.
    """
    num_rows, vocab_size = keys.shape
    out = torch.empty(num_rows, 1, dtype=torch.int64, device=keys.device)
    _mass_boundary_kernel[(num_rows,)](
        keys.contiguous(),
        probs.contiguous(),
        mass.contiguous(),
        out,
        vocab_size,
        ID_BITS=vocab_size.bit_length(),
        BLOCK=min(4096, triton.next_power_of_2(vocab_size)),
        num_warps=8,
    )
    return out
