"""From scores to a token id per row: the highest, or the one a random number points at."""

import math

import torch
from torch import Tensor

_BLOCK = 256
_SMALLEST_BLOCK = 16  # narrower ones cost more than they save


def highest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The first highest logit of each row: (token ids [M] int64, their logits [M] float32).

    logits: [M, V] float32. NaN counts as highest, as in torch.argmax. On a CPU an arg-max is not
    vectorised but a maximum is, so where V allows the row is first cut down to one block.
    """
    vocab_size = logits.shape[-1]
    rows = torch.arange(len(logits), device=logits.device)
    block = math.gcd(vocab_size, _BLOCK)
    if block < _SMALLEST_BLOCK:
        token_ids = logits.argmax(-1)
    else:
        blocks = logits.reshape(-1, vocab_size // block, block)
        first = blocks.amax(-1).argmax(-1)
        token_ids = first * block + blocks[rows, first].argmax(-1)
    return token_ids, logits[rows, token_ids]


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Token ids [M] int64 by inverse CDF in vocabulary order.

    scores: [M, V] float32, unnormalised log-probabilities; uniforms: [M] float64 in [0, 1). Picks
    the first token whose cumulative probability exceeds `uniform * total`. The excess means that
    its own probability is not 0, and that one exists: below 1, `uniform * total` rounds below
    `total`. The running sum is float64 and sequential, so it is the same in every batch.
    """
    cumulative = scores.softmax(-1).cumsum(-1, dtype=torch.float64)
    targets = uniforms.unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1)
