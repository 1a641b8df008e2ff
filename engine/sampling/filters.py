"""Filters of a row's distribution, on scores: logits less their maximum, over the temperature.

Every filter takes scores [M, V] float32 and one parameter per row, [M, 1] float64, and sets the
scores it removes to -inf, in place. It looks at each row by itself and leaves at least one token.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lorax_serve.engine.sampling.ranking import ID_BITS, mass_boundary, rank_keys
from lorax_serve.ipc.types import SamplingParams

# In float32 a lower temperature would turn into 0, and the maximum's score into 0 / 0.
LOWEST_TEMPERATURE = torch.finfo(torch.float32).tiny
_SMALL_K = 256


def scale_(logits: Tensor, maxima: Tensor, params: Sequence[SamplingParams]) -> None:
    """Turns logits [M, V] float32 into scores: 0 for the most likely token, negative for others.

    `maxima` [M] are those of the rows; every temperature is above 0. Subtracting before dividing
    keeps a low temperature from overflowing to anything but -inf.
    """
    temperatures = [max(p.temperature, LOWEST_TEMPERATURE) for p in params]
    logits.sub_(maxima.unsqueeze(-1))
    logits.div_(_column(temperatures, logits.device).to(torch.float32))


def filter_scores_(scores: Tensor, params: Sequence[SamplingParams]) -> None:
    """Top-k, top-p, min-p, then typical-p, each for the rows that ask for it. scores: [M, V]."""
    top_k = {i: p.top_k for i, p in enumerate(params) if 0 < p.top_k < scores.shape[-1]}
    # Rows of one call share the largest k's cost, so a large k does not join the small ones.
    _on_rows_(keep_top_k_, scores, {i: k for i, k in top_k.items() if k <= _SMALL_K})
    _on_rows_(keep_top_k_, scores, {i: k for i, k in top_k.items() if k > _SMALL_K})
    _on_rows_(keep_top_p_, scores, {i: p.top_p for i, p in enumerate(params) if p.top_p < 1})
    _on_rows_(keep_min_p_, scores, {i: p.min_p for i, p in enumerate(params) if p.min_p > 0})
    _on_rows_(
        keep_typical_p_, scores, {i: p.typical_p for i, p in enumerate(params) if p.typical_p < 1}
    )


def keep_top_k_(scores: Tensor, k: Tensor) -> None:
    """Keeps the k highest scores and all that equal the k-th. 1 <= k <= V (Fan et al., 2018)."""
    ranks = k.to(torch.int64)
    highest = scores.topk(int(ranks.max())).values
    scores.masked_fill_(scores < highest.gather(1, ranks - 1), -math.inf)


def keep_top_p_(scores: Tensor, p: Tensor) -> None:
    """Keeps the fewest tokens whose probability reaches p (Holtzman et al., 2019).

    Of equally likely tokens at the boundary, those of lower id stay.
    """
    keys = rank_keys(scores.abs())
    last = mass_boundary(keys, scores.softmax(-1), p)
    scores.masked_fill_(keys > last, -math.inf)


def keep_min_p_(scores: Tensor, p: Tensor) -> None:
    """Keeps tokens at least p times as likely as the most likely one (Nguyen et al., 2024).

    That one has score 0, so `probability >= p * highest` is `score >= ln p`.
    """
    scores.masked_fill_(scores < p.log().to(torch.float32), -math.inf)


def keep_typical_p_(scores: Tensor, p: Tensor) -> None:
    """Keeps the tokens whose information is closest to the entropy, up to probability p.

    Meister et al., "Locally Typical Sampling", 2022: the fewest in order of
    `|-ln prob - entropy|` whose probability reaches p, and all that are as close as the last.
    """
    logprobs, probs = scores.log_softmax(-1), scores.softmax(-1)
    # A cumulative sum is sequential; a plain sum may split a row differently when it is alone.
    entropy = -(logprobs * probs).nan_to_num_(nan=0.0).cumsum(-1, dtype=torch.float64)[:, -1:]
    keys = rank_keys((logprobs + entropy.to(torch.float32)).abs())
    last = mass_boundary(keys, probs, p)
    scores.masked_fill_(keys > (last | ID_BITS), -math.inf)


def _on_rows_(
    keep_: Callable[[Tensor, Tensor], None], scores: Tensor, parameters: Mapping[int, float]
) -> None:
    """Runs a filter on the rows that have a parameter, and copies nothing if all have one."""
    if not parameters:
        return
    column = _column(list(parameters.values()), scores.device)
    if len(parameters) == len(scores):
        keep_(scores, column)
        return
    rows = torch.tensor(list(parameters), device=scores.device)
    part = scores.index_select(0, rows)
    keep_(part, column)
    scores.index_copy_(0, rows, part)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device).unsqueeze(-1)
