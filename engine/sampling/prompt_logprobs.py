"""Log-probabilities of tokens that were given, not picked: those of a prompt.

A prompt has as many rows of logits as tokens, and a row of logits is as wide as the vocabulary. So
they are made and read a few rows at a time, and only what is asked for is kept.

Legend: R rows, E hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lorax_serve.engine.sampling.draws import Asked
from lorax_serve.engine.sampling.logprobs import LogprobTensors
from lorax_serve.engine.sampling.picker import picker_of
from lorax_serve.engine.sampling.upload import Upload, to_pinned
from lorax_serve.ipc.types import TokenLogprob

_MAX_LOGITS = 2**23  # at a time: 65 rows of a vocabulary of 128,256


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Some consecutive rows' log-probabilities, still on their way."""

    logprobs: LogprobTensors
    finite: Tensor  # [R] bool: False where the logits hold NaN or +inf, or nothing else than -inf
    uploaded: Tensor | None  # what was sent to the device; lives until the device has read it

    def to_host(self) -> "ScoredRows":
        """Start copying to pinned memory on the current stream."""
        return ScoredRows(self.logprobs.to_host(), to_pinned(self.finite), self.uploaded)


def score(
    hidden: Tensor,
    token_ids: Sequence[int],
    num_top: int,
    *,
    vocab_size: int,
    logits_of: Callable[[Tensor], Tensor],
) -> tuple[ScoredRows, ...]:
    """Enqueue: of row i's logits, the log-softmax at `token_ids[i]` and its `num_top` highest.

    hidden: [R, E] with R = len(token_ids); `logits_of` makes [n, V] of some of its rows [n, E].
    """
    step = max(1, _MAX_LOGITS // vocab_size)
    return tuple(
        _score_rows(
            logits_of(hidden[first : first + step]), token_ids[first : first + step], num_top
        )
        for first in range(0, len(token_ids), step)
    )


def read_scores(parts: tuple[ScoredRows, ...]) -> tuple[TokenLogprob, ...] | None:
    """One entry per row; None if any is not finite. Waits for tensors that are not on the host."""
    if not all(bool(part.finite.all()) for part in parts):
        return None
    return tuple(entry for part in parts for entry in part.logprobs.entries().values())


def _score_rows(logits: Tensor, token_ids: Sequence[int], num_top: int) -> ScoredRows:
    upload = Upload()
    asked = Asked(dict.fromkeys(range(len(token_ids)), num_top), logits.shape[-1], upload)
    targets = upload.add(np.array(token_ids, np.int64))
    uploaded = upload.send(logits.device)
    picker = picker_of(logits.device)
    _, maxima, finite = picker.highest(logits)
    logprobs = picker.logprobs(logits, maxima, asked, targets.tensor)
    return ScoredRows(LogprobTensors(asked.counts, *logprobs), finite, uploaded)
