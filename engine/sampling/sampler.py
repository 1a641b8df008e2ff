"""Picks one token per row of logits. No row's parameters touch another row.

A row's token and logprobs are the same bits whichever rows are beside it: each operation reads one
row, and sums along a row are exact, sequential or torch's per-row softmax.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lorax_serve.engine.sampling.draws import Asked, Draws
from lorax_serve.engine.sampling.logprobs import LogprobTensors
from lorax_serve.engine.sampling.penalties import Penalties, check_bias
from lorax_serve.engine.sampling.picker import Picker, picker_of
from lorax_serve.engine.sampling.rows import MaskRows, SamplingRow
from lorax_serve.engine.sampling.upload import Upload, to_pinned
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
    uploaded: Tensor | None  # what was sent to the device; lives until the device has read it

    def to_host(self) -> "SampledTensors":
        """Start copying to pinned memory on the current stream. To be read when that is done."""
        return SampledTensors(
            to_pinned(self.token_ids),
            to_pinned(self.finite),
            None if self.logprobs is None else self.logprobs.to_host(),
            self.uploaded,
        )


def sample(logits: Tensor, rows: Sequence[SamplingRow], mask: MaskRows | None) -> Sampled:
    """What `launch` has picked, waited for."""
    return read(launch(logits, rows, mask))


def launch(logits: Tensor, rows: Sequence[SamplingRow], mask: MaskRows | None) -> SampledTensors:
    """Enqueue the choice of every row's next token, as `SamplingParams` describes it.

    logits: [N, V] of a floating type, rows contiguous, left unchanged; `rows` has N entries; `mask`
    names rows of `logits`. Never waits for the device. Raises ValueError if the number of rows
    differs, if the logits are not floats, or if a `logit_bias` names a token that is not in the
    vocabulary.
    """
    if not logits.is_floating_point() or logits.shape[:-1] != (len(rows),):
        raise ValueError(
            f"expected float logits [{len(rows)}, V], got {list(logits.shape)} {logits.dtype}"
        )
    check_bias(rows, logits.shape[-1])
    return launch_with(picker_of(logits.device), logits, rows, mask)


def launch_with(
    picker: Picker, logits: Tensor, rows: Sequence[SamplingRow], mask: MaskRows | None
) -> SampledTensors:
    """`launch` by a certain picker, of arguments known to be good."""
    upload = Upload()
    masked = [] if mask is None else mask.rows.tolist()
    is_masked = frozenset(masked)
    changed = {i: row for i, row in enumerate(rows) if row.changes_logits or i in is_masked}
    drawn = {i: row for i, row in enumerate(rows) if not row.is_greedy and i not in changed}
    changes = _Changes(changed, mask, masked, upload) if changed else None
    draws = Draws(drawn, upload) if drawn else None
    counts = {i: n for i, row in enumerate(rows) if (n := row.params.num_logprobs) is not None}
    asked = Asked(counts, logits.shape[-1], upload) if counts else None
    uploaded = upload.send(logits.device)

    token_ids, maxima, finite = picker.highest(logits)
    if draws is not None:
        token_ids.index_copy_(0, draws.index.tensor, picker.draw(logits, maxima, draws))
    if changes is not None:
        picked, allowed = changes.pick(picker, logits)
        index = changes.index.tensor
        token_ids.index_copy_(0, index, picked)
        finite.index_copy_(0, index, finite.index_select(0, index) & allowed)
    if drawn or changed:
        token_ids.masked_fill_(~finite, 0)
    logprobs = _logprobs(picker, logits, maxima, asked, token_ids) if asked else None
    return SampledTensors(token_ids, finite, logprobs, uploaded)


def read(tensors: SampledTensors) -> Sampled:
    """As Python values. Waits for tensors that are not on the host."""
    finite = tensors.finite.tolist()
    logprobs: list[TokenLogprob | None] = [None] * len(finite)
    if tensors.logprobs is not None:
        for row, entry in tensors.logprobs.entries().items():
            logprobs[row] = entry if finite[row] else None
    return Sampled(tuple(tensors.token_ids.tolist()), tuple(logprobs), tuple(finite))


class _Changes:
    """Rows whose logits are changed before anything is picked: M of them, at least one."""

    def __init__(
        self,
        rows: Mapping[int, SamplingRow],
        mask: MaskRows | None,
        masked: Sequence[int],
        upload: Upload,
    ) -> None:
        self.index = upload.add(np.array(list(rows), np.int64))
        places = {row: place for place, row in enumerate(rows)}
        self._penalties = Penalties(list(rows.values()), upload)
        self._mask = None
        if mask is not None and masked:
            at = upload.add(np.array([places[row] for row in masked], np.int64))
            self._mask = upload.add_tensor(mask.bitmask), at
        drawn = {places[i]: row for i, row in rows.items() if not row.is_greedy}
        self._draws = Draws(drawn, upload) if drawn else None

    def pick(self, picker: Picker, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [M] int64 and whether each row's highest logit is finite [M] bool."""
        changed = logits.index_select(0, self.index.tensor).float()
        self._penalties.apply_(changed)
        if self._mask is not None:
            bitmask, at = self._mask
            apply_mask(changed, bitmask.tensor, at.tensor)
        token_ids, maxima, finite = picker.highest(changed)
        if self._draws is not None:
            picked = picker.draw(changed, maxima, self._draws)
            token_ids.index_copy_(0, self._draws.index.tensor, picked)
        return token_ids, finite


def _logprobs(
    picker: Picker, logits: Tensor, maxima: Tensor, asked: Asked, token_ids: Tensor
) -> LogprobTensors:
    token_ids = token_ids.index_select(0, asked.index.tensor)
    return LogprobTensors(asked.counts, *picker.logprobs(logits, maxima, asked, token_ids))
