"""Penalties, biases and bans: changes to a few logits of the rows that ask for them, in place.

They are written down on the host as the entries that change, and applied all at once: the cost
grows with the tokens touched and not with the vocabulary.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lorax_serve.engine.sampling.rows import SamplingRow
from lorax_serve.engine.sampling.upload import Sent, Upload


class _Entries(NamedTuple):
    """Some logits of one row, and by how much each changes."""

    row: int
    token_ids: npt.NDArray[np.int64]
    amounts: npt.NDArray[np.float64]


def check_bias(rows: Sequence[SamplingRow], vocab_size: int) -> None:
    """Raises ValueError if a `logit_bias` names a token outside the vocabulary."""
    for row in rows:
        for token_id, _ in row.params.logit_bias:
            if not 0 <= token_id < vocab_size:
                raise ValueError(
                    f"logit_bias names token {token_id}, but the vocabulary has {vocab_size} tokens"
                )


class Penalties:
    """Repetition, then occurrence penalties, then biases and bans, of M rows."""

    def __init__(self, rows: Sequence[SamplingRow], upload: Upload) -> None:
        self._repetition = _send(_repetition(rows), upload)
        self._additions = [
            _send(changes, upload) for changes in (_occurrence(rows), _bias(rows), _bans(rows))
        ]

    def apply_(self, logits: Tensor) -> None:
        """logits: [M, V] float32, on the device that the upload was sent to."""
        if self._repetition is not None:
            at, penalties = self._repetition.on_device()
            seen = logits[at]
            # A token seen twice is written twice, with one value: the order does not matter.
            logits[at] = (seen * penalties).where(seen < 0, seen / penalties)
        for addition in self._additions:
            if addition is not None:
                at, amounts = addition.on_device()
                logits[at] += amounts


def _repetition(rows: Sequence[SamplingRow]) -> list[_Entries]:
    """Logits of tokens in prompt or output are divided by the penalty; negative ones multiplied.

    Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation",
    2019, section 4.1, with the multiplication that makes it a penalty for negative logits too.
    """
    changes = []
    for index, row in enumerate(rows):
        if row.params.repetition_penalty != 1:
            tokens = chain(row.prompt_token_ids, row.output_token_ids)
            token_ids = np.fromiter(tokens, np.int64)
            penalty = np.full(len(token_ids), row.params.repetition_penalty)
            changes.append(_Entries(index, token_ids, penalty))
    return changes


def _occurrence(rows: Sequence[SamplingRow]) -> list[_Entries]:
    """`count * frequency_penalty + presence_penalty` is subtracted from the tokens in the output.

    The formula of the OpenAI API guide, "Frequency and presence penalties".
    """
    changes = []
    for index, row in enumerate(rows):
        frequency, presence = row.params.frequency_penalty, row.params.presence_penalty
        if frequency != 0 or presence != 0:
            counts = Counter(row.output_token_ids)
            token_ids = np.fromiter(counts.keys(), np.int64, len(counts))
            times = np.fromiter(counts.values(), np.float64, len(counts))
            changes.append(_Entries(index, token_ids, -(times * frequency + presence)))
    return changes


def _bias(rows: Sequence[SamplingRow]) -> list[_Entries]:
    """Each row's `logit_bias`; biases of one token add up."""
    changes = []
    for index, row in enumerate(rows):
        if row.params.logit_bias:
            biases: defaultdict[int, float] = defaultdict(float)
            for token_id, bias in row.params.logit_bias:
                biases[token_id] += bias
            token_ids = np.fromiter(biases.keys(), np.int64, len(biases))
            amounts = np.fromiter(biases.values(), np.float64, len(biases))
            changes.append(_Entries(index, token_ids, amounts))
    return changes


def _bans(rows: Sequence[SamplingRow]) -> list[_Entries]:
    """What may not be picked now becomes minus infinity."""
    changes = []
    for index, row in enumerate(rows):
        if row.banned_token_ids:
            token_ids = np.array(row.banned_token_ids, np.int64)
            changes.append(_Entries(index, token_ids, np.full(len(token_ids), -np.inf)))
    return changes


class _SentEntries(NamedTuple):
    """Entries of all rows, [E] each.

    A pair of indices, not flat positions, keeps a bad id from reaching the next row.
    """

    rows: Sent  # int64
    token_ids: Sent  # int64
    amounts: Sent  # float32

    def on_device(self) -> tuple[tuple[Tensor, Tensor], Tensor]:
        return (self.rows.tensor, self.token_ids.tensor), self.amounts.tensor


def _send(changes: Sequence[_Entries], upload: Upload) -> _SentEntries | None:
    if not changes:
        return None
    rows = np.repeat([change.row for change in changes], [len(c.token_ids) for c in changes])
    return _SentEntries(
        upload.add(rows),
        upload.add(np.concatenate([change.token_ids for change in changes])),
        upload.add(np.concatenate([change.amounts for change in changes]).astype(np.float32)),
    )
