"""How far down a row of ranked tokens its probability mass reaches, without sorting the row.

A radix selection on the keys, four bits at a time from the top: each pass adds up, for every value
of the next digit, the probabilities of the keys that begin like the boundary does. A pass is one
launch in which several programs share a row; the next one works out the digit from their sums. All
sums are made in a fixed order, each row's by itself, so its answer does not depend on the others.

Legend: M rows, V vocabulary, S programs that share a row.
"""

import torch
import triton
import triton.language as tl

_DIGIT_BITS = 4
_TOP_SHIFT = 60  # of the highest digit; keys are non-negative
_ID_DIGITS = 5  # token ids are below 2^20
# The bits between a cost (the high half) and the largest id are all zero: no pass for them.
_SHIFTS = (*range(_TOP_SHIFT, 31, -_DIGIT_BITS), *range(4 * (_ID_DIGITS - 1), -1, -_DIGIT_BITS))
_SHARE = 8192  # tokens of one program
_BLOCK = 2048


@triton.jit
def _find_digit(sums_ptr, mass_ptr, row, num_shares, DIGITS: tl.constexpr, SHARES: tl.constexpr):
    """The digit that the sums of a pass lead to, and the mass left to find within it."""
    digits = tl.arange(0, DIGITS)
    shares = tl.arange(0, SHARES)
    sums = tl.load(
        sums_ptr + (row * num_shares + shares[:, None]) * DIGITS + digits[None, :],
        mask=(shares < num_shares)[:, None],
        other=0.0,
    )
    by_digit = tl.sum(sums.to(tl.float64), axis=0)
    reached = tl.cumsum(by_digit, axis=0)
    wanted = tl.load(mass_ptr + row)
    # A row that never reaches its mass ends with the last digit that holds anything.
    enough = tl.sum((reached < wanted).to(tl.int32), axis=0)
    last = tl.max(tl.where(by_digit > 0, digits, 0), axis=0)
    digit = tl.minimum(enough, last)
    below = tl.sum(tl.where(digits < digit, by_digit, 0.0), axis=0)
    return digit.to(tl.int64), wanted - below


@triton.jit
def _pass_kernel(
    keys_ptr,
    probs_ptr,
    prefix_ptr,
    mass_ptr,
    sums_ptr,
    next_prefix_ptr,
    next_mass_ptr,
    next_sums_ptr,
    vocab_size,
    num_shares,
    shift,
    last_shift,
    IS_FIRST: tl.constexpr,
    DIGITS: tl.constexpr,
    SHARES: tl.constexpr,
    SHARE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    prefix = tl.load(prefix_ptr + row)
    wanted = tl.load(mass_ptr + row)
    if not IS_FIRST:
        digit, wanted = _find_digit(sums_ptr, mass_ptr, row, num_shares, DIGITS, SHARES)
        prefix = prefix | (digit << last_shift)
    if share == 0:
        tl.store(next_prefix_ptr + row, prefix)
        tl.store(next_mass_ptr + row, wanted)
    digits = tl.arange(0, DIGITS)
    sums = tl.zeros((DIGITS,), dtype=tl.float32)
    known = prefix >> (shift + 4)
    for start in range(0, SHARE, BLOCK):
        tokens = share * SHARE + start + tl.arange(0, BLOCK)
        in_row = tokens < vocab_size
        keys = tl.load(keys_ptr + row * vocab_size + tokens, mask=in_row, other=-1)
        alike = in_row & ((keys >> (shift + 4)) == known)
        probs = tl.load(probs_ptr + row * vocab_size + tokens, mask=alike, other=0.0)
        digit_of = ((keys >> shift) & (DIGITS - 1)).to(tl.int32)
        for value in tl.static_range(DIGITS):
            part = tl.sum(tl.where(digit_of == value, probs, 0.0), axis=0)
            sums += tl.where(digits == value, part, 0.0)
    tl.store(next_sums_ptr + (row * num_shares + share) * DIGITS + digits, sums)


@triton.jit
def _last_digit_kernel(
    prefix_ptr, mass_ptr, sums_ptr, out_ptr, num_shares, DIGITS: tl.constexpr, SHARES: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    digit, _ = _find_digit(sums_ptr, mass_ptr, row, num_shares, DIGITS, SHARES)
    tl.store(out_ptr + row, tl.load(prefix_ptr + row) | digit)


def mass_boundary(keys: torch.Tensor, probs: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """The last key of each row's shortest run of lowest keys whose probability reaches `mass`.

    keys [M, V] int64, non-negative and distinct within a row: a cost in the high 32 bits, the token
    id, below 2^20, in the low ones. probs [M, V] float32; mass [M, 1] float64; returns [M, 1]
    int64, which for a row that never reaches `mass` is the last key with any probability. Sums are
    float32 within a few thousand tokens and float64 beyond.
    """
    num_rows, vocab_size = keys.shape
    assert vocab_size <= 1 << (_DIGIT_BITS * _ID_DIGITS), "token ids need more digits"
    keys, probs = keys.contiguous(), probs.contiguous()
    share = min(_SHARE, triton.next_power_of_2(vocab_size))
    num_shares = triton.cdiv(vocab_size, share)
    num_digits = 1 << _DIGIT_BITS
    prefixes = keys.new_zeros(2, num_rows)
    wanted = mass.reshape(1, num_rows).repeat(2, 1)
    sums = probs.new_empty(2, num_rows, num_shares, num_digits)
    sizes = {"DIGITS": num_digits, "SHARES": triton.next_power_of_2(num_shares)}
    here, last_shift = 0, 0
    for index, shift in enumerate(_SHIFTS):
        there = 1 - here
        _pass_kernel[(num_rows, num_shares)](
            keys,
            probs,
            prefixes[here],
            wanted[here],
            sums[here],
            prefixes[there],
            wanted[there],
            sums[there],
            vocab_size,
            num_shares,
            shift,
            last_shift,
            IS_FIRST=index == 0,
            SHARE=share,
            BLOCK=min(_BLOCK, share),
            **sizes,
        )
        here, last_shift = there, shift
    out = torch.empty(num_rows, 1, dtype=torch.int64, device=keys.device)
    _last_digit_kernel[(num_rows,)](
        prefixes[here], wanted[here], sums[here], out, num_shares, **sizes
    )
    return out
