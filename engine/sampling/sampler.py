"""Picks one token per row of logits. No row's parameters touch another row.

A row's token and logprobs are the same bits whichever rows are beside it: each operation reads one
row, and sums along a row are sequential or torch's per-row softmax.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax_serve.engine.sampling.filters import filter_scores_, scale_
from lorax_serve.engine.sampling.logprobs import raw_logprobs
from lorax_serve.engine.sampling.penalties import adjust_logits_, check_bias
from lorax_serve.engine.sampling.rows import MaskRows, SamplingRow
from lorax_serve.engine.sampling.selection import draw, highest
from lorax_serve.engine.sampling.uniform import uniform
from lorax_serve.grammar.mask import apply_mask
from lorax_serve.ipc.types import TokenLogprob

__all__ = ["MaskRows", "Sampled", "SamplingRow", "sample"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One entry per row of logits, in its order."""

    token_ids: tuple[int, ...]  # 0 where not finite
    logprobs: tuple[TokenLogprob | None, ...]  # None where not asked for, or not finite
    finite: tuple[bool, ...]  # False: the logits hold NaN or +inf, or nothing was allowed


def sample(logits: Tensor, rows: Sequence[SamplingRow], mask: MaskRows | None) -> Sampled:
    """The next token of every row, as `SamplingParams` describes it.

    logits: [N, V] float32, left unchanged; `rows` has N entries; `mask` names rows of `logits`.
    Raises ValueError if the number of rows differs, if the logits are not float32, or if a
    `logit_bias` names a token that is not in the vocabulary.
    """
    if logits.dtype != torch.float32 or logits.shape[:-1] != (len(rows),):
        raise ValueError(
            f"expected logits [{len(rows)}, V] float32, got {list(logits.shape)} {logits.dtype}"
        )
    check_bias(rows, logits.shape[-1])
    token_ids, maxima = highest(logits)
    finite = maxima.isfinite()
    masked = frozenset[int]() if mask is None else frozenset(mask.rows.tolist())
    # The other rows are greedy on their logits as they are, and done.
    open_rows = [
        i for i, row in enumerate(rows) if i in masked or row.changes_logits or not row.is_greedy
    ]
    if open_rows:
        index = torch.tensor(open_rows, device=logits.device)
        scores = logits.index_select(0, index)
        _adjust_(scores, open_rows, rows, mask)
        token_ids[index], allowed = _pick(scores, [rows[i] for i in open_rows])
        finite[index] &= allowed
    return _sampled(logits, rows, token_ids.masked_fill_(~finite, 0), finite)


def _adjust_(
    logits: Tensor,
    open_rows: Sequence[int],
    rows: Sequence[SamplingRow],
    mask: MaskRows | None,
) -> None:
    """Penalties, biases and masks, in place. logits: [M, V], of which row m is `open_rows[m]`."""
    adjust_logits_(logits, [rows[i] for i in open_rows])
    if mask is not None and len(mask.rows) > 0:
        places = {row: place for place, row in enumerate(open_rows)}
        at = torch.tensor(
            [places[row] for row in mask.rows.tolist()], dtype=torch.int64, device=logits.device
        )
        apply_mask(logits, mask.bitmask, at)


def _pick(logits: Tensor, rows: Sequence[SamplingRow]) -> tuple[Tensor, Tensor]:
    """Token ids [M] int64 from final logits [M, V], and whether each row allowed one [M] bool.

    A row that allowed none goes through the filters as NaN, alone, and its id means nothing.
    """
    token_ids, maxima = highest(logits)
    drawn = [i for i, row in enumerate(rows) if not row.is_greedy]
    if drawn:
        index = torch.tensor(drawn, device=logits.device)
        scores = logits if len(drawn) == len(rows) else logits.index_select(0, index)
        params = [rows[i].params for i in drawn]
        scale_(scores, maxima[index], params)
        filter_scores_(scores, params)
        uniforms = [uniform(rows[i].params.seed, len(rows[i].output_token_ids)) for i in drawn]
        token_ids[index] = draw(
            scores, torch.tensor(uniforms, dtype=torch.float64, device=logits.device)
        )
    return token_ids, maxima.isfinite()


def _sampled(
    logits: Tensor, rows: Sequence[SamplingRow], token_ids: Tensor, finite: Tensor
) -> Sampled:
    """The picks as Python values, with log-probabilities for the rows that ask."""
    ids, usable = token_ids.tolist(), finite.tolist()
    logprobs: list[TokenLogprob | None] = [None] * len(rows)
    asked = {
        i: row.params.num_logprobs
        for i, row in enumerate(rows)
        if row.params.num_logprobs is not None and usable[i]
    }
    if asked:
        raw = logits.index_select(0, torch.tensor(list(asked), device=logits.device))
        entries = raw_logprobs(raw, [ids[i] for i in asked], list(asked.values()))
        for i, entry in zip(asked, entries, strict=True):
            logprobs[i] = entry
    return Sampled(tuple(ids), tuple(logprobs), tuple(usable))
