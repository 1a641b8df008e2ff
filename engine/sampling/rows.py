"""What the sampler is told about each row of logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorax_serve.ipc.types import SamplingParams


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One sequence whose next token is to be picked. Rebuilt each step.

    Every token id lies in the vocabulary. The ids are read only where a penalty needs them, so
    passing a sequence's live lists costs nothing.
    """

    params: SamplingParams
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]  # so far; the length is the index of the token to pick now
    banned_token_ids: Sequence[int] = ()  # distinct; not to be picked now

    @property
    def is_greedy(self) -> bool:
        return self.params.temperature == 0

    @property
    def changes_logits(self) -> bool:
        """Whether penalties or a bias move the arg-max, even at temperature 0."""
        params = self.params
        return (
            params.repetition_penalty != 1
            or params.frequency_penalty != 0
            or params.presence_penalty != 0
            or bool(params.logit_bias)
            or bool(self.banned_token_ids)
        )


@dataclass(frozen=True, slots=True)
class MaskRows:
    """Grammar masks of some rows; bit i of word w allows token 32 w + i."""

    rows: torch.Tensor  # [G] int64 on the host, each row at most once
    bitmask: torch.Tensor  # [G, ceil(V / 32)] int32
