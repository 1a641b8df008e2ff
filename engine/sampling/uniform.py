"""One random number per token, a function of (seed, index of the token) and of nothing else.

Counter-based, so a sequence draws the same numbers alone, in any batch, after a preemption and on
any device. The generator is Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random
numbers: as easy as 1, 2, 3", SC 2011. It is also the one that CUDA and Triton provide.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]  # each of 32 bits, so that a product of two fits

_HALF = np.uint64(32)
_WORD = np.uint64(0xFFFF_FFFF)
_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD251_1F53), np.uint64(0xCD9E_8D57)
_KEY_STEP_0, _KEY_STEP_1 = np.uint64(0x9E37_79B9), np.uint64(0xBB67_AE85)


def philox4x32(
    counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]
) -> tuple[Words, Words, Words, Words]:
    """The Philox4x32-10 blocks of the counters under the keys, element by element."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0 = (product_1 >> _HALF) ^ c1 ^ k0
        c1 = product_1 & _WORD
        c2 = (product_0 >> _HALF) ^ c3 ^ k1
        c3 = product_0 & _WORD
        k0 = (k0 + _KEY_STEP_0) & _WORD
        k1 = (k1 + _KEY_STEP_1) & _WORD
    return c0, c1, c2, c3


def uniforms(seeds: Sequence[int], indices: Sequence[int]) -> npt.NDArray[np.float64]:
    """One float64 in [0, 1) per pair: a multiple of 2**-53, so exact and never 1.

    Seeds and indices are below 2**64. Key words are the low and high half of the seed, counter
    words the low and high half of the index, then 0, 0. With output words w0 and w1 the result is
    `(w0 * 2**21 + (w1 >> 11)) * 2**-53`.
    """
    seed, index = np.array(seeds, np.uint64), np.array(indices, np.uint64)
    zero = np.zeros_like(index)
    counter = (index & _WORD, index >> _HALF, zero, zero)
    w0, w1, _, _ = philox4x32(counter, (seed & _WORD, seed >> _HALF))
    return ((w0 << np.uint64(21)) | (w1 >> np.uint64(11))).astype(np.float64) * 2.0**-53
