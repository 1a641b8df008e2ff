"""Log-probabilities a client sees: those of the model, before anything a request changes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lorax_serve.engine.sampling.ranking import ID_BITS, rank_keys
from lorax_serve.ipc.types import TokenLogprob

LOWEST_LOGPROB = -9999.0  # stands for -inf, which JSON cannot say


def raw_logprobs(
    logits: Tensor, token_ids: Sequence[int], num_alternatives: Sequence[int]
) -> list[TokenLogprob]:
    """The chosen token's log-probability and the most likely tokens', one entry per row.

    logits: [M, V] float32, untouched, each row with a finite maximum. `num_alternatives` says how
    many of the most likely tokens a row gets, at most V; equally likely ones come by token id.
    """
    logprobs = logits.log_softmax(-1).clamp_(min=LOWEST_LOGPROB)
    index = torch.tensor(token_ids, device=logits.device).unsqueeze(-1)
    chosen = logprobs.gather(1, index).squeeze(-1).tolist()
    most_likely = _most_likely(logprobs, max(num_alternatives))
    return [
        TokenLogprob(logprob, tuple(top[:count]))
        for logprob, top, count in zip(chosen, most_likely, num_alternatives, strict=True)
    ]


def _most_likely(logprobs: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """(token id, logprob) of each row's `count` most likely tokens, most likely first."""
    if count == 0:
        return [[]] * len(logprobs)
    keys = rank_keys(logprobs.abs())
    token_ids = keys.topk(min(count, keys.shape[-1]), largest=False).values & ID_BITS
    values = logprobs.gather(1, token_ids)
    return [
        list(zip(ids, row, strict=True))
        for ids, row in zip(token_ids.tolist(), values.tolist(), strict=True)
    ]
