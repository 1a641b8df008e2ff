"""One random number per token, a function of (seed, index of the token) and of nothing else.

Counter-based, so a sequence draws the same numbers alone, in any batch, after a preemption and on
any device. The generator is Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random
numbers: as easy as 1, 2, 3", SC 2011. It is also the one that CUDA and Triton provide.
"""

_WORD = 0xFFFF_FFFF
_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD251_1F53, 0xCD9E_8D57
_KEY_STEP_0, _KEY_STEP_1 = 0x9E37_79B9, 0xBB67_AE85

Words4 = tuple[int, int, int, int]


def philox4x32(counter: Words4, key: tuple[int, int]) -> Words4:
    """The Philox4x32-10 block of `counter` under `key`; all words are 32 bits, unsigned."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0 = (product_1 >> 32) ^ c1 ^ k0
        c1 = product_1 & _WORD
        c2 = (product_0 >> 32) ^ c3 ^ k1
        c3 = product_0 & _WORD
        k0 = (k0 + _KEY_STEP_0) & _WORD
        k1 = (k1 + _KEY_STEP_1) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, index: int) -> float:
    """A float64 in [0, 1): a multiple of 2**-53, so exact and never 1.

    `seed` and `index` are below 2**64. Key words are the low and high half of the seed, counter
    words the low and high half of the index, then 0, 0. With output words w0 and w1 the result is
    `(w0 * 2**21 + (w1 >> 11)) * 2**-53`.
    """
    counter = (index & _WORD, index >> 32, 0, 0)
    w0, w1, _, _ = philox4x32(counter, (seed & _WORD, seed >> 32))
    return float((w0 << 21) | (w1 >> 11)) * 2.0**-53
