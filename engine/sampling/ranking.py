"""A total order on the tokens of a row: by cost, then by token id.

Equal logits are common (16-bit weights), and a sort or top-k of floats may return equal values in
any order. Sorting integer keys that hold the cost and the id leaves no choice, so a row's result
depends neither on its batch-mates nor on the width asked for.
"""

import torch
from torch import Tensor

ID_BITS = 0xFFFF_FFFF  # the low half of a key
_FIRST_WIDTH = 256  # most distributions reach their mass within this many tokens
_WIDENING = 16


def rank_keys(cost: Tensor) -> Tensor:
    """Keys [M, V] int64 that order as (cost, token id); `key & ID_BITS` is the id.

    `cost` is [M, V] float32, non-negative or +inf, never -0.0: the bits of such IEEE 754 numbers
    order as the numbers do.
    """
    token_ids = torch.arange(cost.shape[-1], device=cost.device)
    return torch.add(token_ids, cost.view(torch.int32).to(torch.int64), alpha=1 << 32)


def mass_boundary(keys: Tensor, probs: Tensor, mass: Tensor, width: int = _FIRST_WIDTH) -> Tensor:
    """The last key of each row's shortest run of lowest keys whose probability reaches `mass`.

    keys [M, V] int64; probs [M, V] float32; mass [M, 1] float64; returns [M, 1] int64. A row whose
    probabilities never add up to `mass` runs to its end. Looks at the `width` lowest keys first
    and sorts more only for the rows that need it; the running sum is float64 and sequential, so
    the answer is the same at any width.
    """
    vocab_size = keys.shape[-1]
    width = min(width, vocab_size)
    run = keys.topk(width, largest=False).values
    reached = probs.gather(1, run & ID_BITS).cumsum(-1, dtype=torch.float64)
    before = (reached < mass).sum(-1, keepdim=True)
    last = run.gather(1, before.clamp(max=width - 1))
    if width < vocab_size:
        rows = (before == width).flatten().nonzero().flatten()
        if len(rows) > 0:
            last[rows] = mass_boundary(keys[rows], probs[rows], mass[rows], width * _WIDENING)
    return last
