"""Penalties and biases: changes to a few logits of the rows that ask for them, in place.

Each function writes down which entries of the rows change and applies them all at once, so the
cost grows with the tokens touched and not with the vocabulary.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lorax_serve.engine.sampling.rows import SamplingRow
from lorax_serve.engine.sampling.transfer import to_device


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


def adjust_logits_(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    """Repetition, then occurrence penalties, then biases. logits: [M, V] float32, one per row."""
    penalise_repetition_(logits, rows)
    penalise_occurrence_(logits, rows)
    add_bias_(logits, rows)


def penalise_repetition_(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    """Divides the logits of tokens in prompt or output by the penalty; multiplies negative ones.

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
    if changes:
        at, penalties = _concatenate(changes, logits.device)
        seen = logits[at]
        # A token seen twice is written twice, with one value: the order does not matter.
        logits[at] = torch.where(seen < 0, seen * penalties, seen / penalties)


def penalise_occurrence_(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    """Subtracts `count * frequency_penalty + presence_penalty` from the tokens in the output.

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
    _add_(logits, changes)


def add_bias_(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    """Adds each row's `logit_bias`; biases of one token add up."""
    changes = []
    for index, row in enumerate(rows):
        if row.params.logit_bias:
            biases: defaultdict[int, float] = defaultdict(float)
            for token_id, bias in row.params.logit_bias:
                biases[token_id] += bias
            token_ids = np.fromiter(biases.keys(), np.int64, len(biases))
            amounts = np.fromiter(biases.values(), np.float64, len(biases))
            changes.append(_Entries(index, token_ids, amounts))
    _add_(logits, changes)


def _add_(logits: Tensor, changes: Sequence[_Entries]) -> None:
    """Adds the amounts; no entry may occur twice."""
    if changes:
        at, amounts = _concatenate(changes, logits.device)
        logits[at] += amounts


def _concatenate(
    changes: Sequence[_Entries], device: torch.device
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The entries as an index (rows, token ids) and float32 amounts, all [E].

    Indexing with a pair, not with flat positions, keeps a bad id from reaching the next row.
    """
    rows = np.repeat([change.row for change in changes], [len(c.token_ids) for c in changes])
    token_ids = np.concatenate([change.token_ids for change in changes])
    amounts = np.concatenate([change.amounts for change in changes])
    return (
        (
            to_device(torch.from_numpy(rows), torch.int64, device),
            to_device(torch.from_numpy(token_ids), torch.int64, device),
        ),
        to_device(torch.from_numpy(amounts), torch.float32, device),
    )
