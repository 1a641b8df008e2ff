"""Sums of a step's final hidden states, on any device."""

import torch
from torch import Tensor

from lorax_serve.engine.pooled_prompt import RowSum
from lorax_serve.engine.step import Step


def sum_prompts(step: Step, hidden: Tensor, *, num_padded: int = 0) -> Tensor | None:
    """Enqueue what `Step.pooling` asks for: [P, E] float64; None where nothing is asked.

    hidden: [T, E], the step's rows in its order; so many rows of padding come after the decodes.
    """
    sums = []
    end = 0
    for index, item in enumerate(step.scheduled):
        if index == step.num_decodes:
            end += num_padded
        end += item.num_tokens
        if item.num_pooled:
            sums.append(hidden[end - item.num_pooled : end].sum(0, dtype=torch.float64))
    return torch.stack(sums) if sums else None


def read_sums(sums: Tensor | None) -> tuple[RowSum | None, ...]:
    """One entry per row, None where it is not finite. Waits for a tensor that is not on the
    host."""
    if sums is None:
        return ()
    finite = sums.isfinite().all(1).tolist()
    return tuple(
        row if is_finite else None for row, is_finite in zip(sums.numpy(), finite, strict=True)
    )
