"""Picks one token per row of logits. No row's parameters touch another row.

A row's token and logprobs are the same bits whichever rows are beside it: each operation reads one
row, and sums along a row are sequential or torch's per-row softmax.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax_serve.engine.sampling.filters import filter_scores_, scale_
from lorax_serve.engine.sampling.logprobs import LogprobTensors, launch_logprobs
from lorax_serve.engine.sampling.penalties import adjust_logits_, check_bias
from lorax_serve.engine.sampling.rows import MaskRows, SamplingRow
from lorax_serve.engine.sampling.selection import draw, highest
from lorax_serve.engine.sampling.transfer import to_device
from lorax_serve.engine.sampling.uniform import uniform
from lorax_serve.grammar.mask import apply_mask
from lorax_serve.ipc.types import TokenLogprob

__all__ = ["MaskRows", "Sampled", "SampledTensors", "SamplingRow", "launch", "read", "sample"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One entry per row of logits, in its order."""

    token_ids: tuple[int, ...]  # 0 where not finite
    logprobs: tuple[TokenLogprob | None, ...]  # None where not asked for, or not finite
    finite: tuple[bool, ...]  # False: the logits hold NaN or +inf, or nothing was allowed


@dataclass(frozen=True, slots=True)
class SampledTensors:
    """The same, still on its way."""

    token_ids: Tensor  # [N] int64, 0 where not finite
    finite: Tensor  # [N] bool
    logprobs: LogprobTensors | None  # of the rows that ask

    def to_host(self) -> "SampledTensors":
        """Start copying to pinned memory on the current stream. To be read when that is done."""
        return SampledTensors(
            self.token_ids.to("cpu", non_blocking=True),
            self.finite.to("cpu", non_blocking=True),
            None if self.logprobs is None else self.logprobs.to_host(),
        )


def sample(logits: Tensor, rows: Sequence[SamplingRow], mask: MaskRows | None) -> Sampled:
    """What `launch` has picked, waited for."""
    return read(launch(logits, rows, mask))


def launch(logits: Tensor, rows: Sequence[SamplingRow], mask: MaskRows | None) -> SampledTensors:
    """Enqueue the choice of every row's next token, as `SamplingParams` describes it.

    logits: [N, V] of a floating type, left unchanged; `rows` has N entries; `mask` names rows of
    `logits`. Never waits for the device. Raises ValueError if the number of rows differs, if the
    logits are not floats, or if a `logit_bias` names a token that is not in the vocabulary.
    """
    if not logits.is_floating_point() or logits.shape[:-1] != (len(rows),):
        raise ValueError(
            f"expected float logits [{len(rows)}, V], got {list(logits.shape)} {logits.dtype}"
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
        index = to_device(open_rows, torch.int64, logits.device)
        scores = logits.index_select(0, index).float()
        _adjust_(scores, open_rows, rows, mask)
        picked, allowed = _pick(scores, [rows[i] for i in open_rows])
        token_ids.index_copy_(0, index, picked)
        finite.index_copy_(0, index, finite.index_select(0, index) & allowed)
    token_ids.masked_fill_(~finite, 0)
    return SampledTensors(token_ids, finite, _launch_logprobs(logits, rows, token_ids))


def _launch_logprobs(
    logits: Tensor, rows: Sequence[SamplingRow], token_ids: Tensor
) -> LogprobTensors | None:
    asked = {
        i: row.params.num_logprobs
        for i, row in enumerate(rows)
        if row.params.num_logprobs is not None
    }
    if not asked:
        return None
    index = to_device(list(asked), torch.int64, logits.device)
    return launch_logprobs(
        logits.index_select(0, index).float(), token_ids.index_select(0, index), asked
    )


def read(sampled: SampledTensors) -> Sampled:
    """As Python values. Waits for tensors that are not on the host."""
    finite = sampled.finite.tolist()
    logprobs: list[TokenLogprob | None] = [None] * len(finite)
    if sampled.logprobs is not None:
        for row, entry in sampled.logprobs.entries().items():
            logprobs[row] = entry if finite[row] else None
    return Sampled(tuple(sampled.token_ids.tolist()), tuple(logprobs), tuple(finite))


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
        at = [places[row] for row in mask.rows.tolist()]
        apply_mask(
            logits,
            to_device(mask.bitmask, torch.int32, logits.device),
            to_device(at, torch.int64, logits.device),
        )


def _pick(logits: Tensor, rows: Sequence[SamplingRow]) -> tuple[Tensor, Tensor]:
    """Token ids [M] int64 from final logits [M, V], and whether each row allowed one [M] bool.

    A row that allowed none goes through the filters as NaN, alone, and its id means nothing.
    """
    token_ids, maxima = highest(logits)
    drawn = [i for i, row in enumerate(rows) if not row.is_greedy]
    if drawn:
        index = to_device(drawn, torch.int64, logits.device)
        scores = logits if len(drawn) == len(rows) else logits.index_select(0, index)
        params = [rows[i].params for i in drawn]
        scale_(scores, maxima.index_select(0, index), params)
        filter_scores_(scores, params)
        uniforms = [uniform(rows[i].params.seed, len(rows[i].output_token_ids)) for i in drawn]
        picked = draw(scores, to_device(uniforms, torch.float64, logits.device))
        token_ids.index_copy_(0, index, picked)
    return token_ids, maxima.isfinite()
