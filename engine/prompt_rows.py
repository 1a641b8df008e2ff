"""What is wanted of a step's final hidden states besides tokens: sums of rows, logits of heads."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax_serve.engine.adapters.label_head import LabelHead
from lorax_serve.engine.labelled_prompt import LabelledPrompt, Logits
from lorax_serve.engine.pooled_prompt import RowSum
from lorax_serve.engine.sampling.upload import to_pinned
from lorax_serve.engine.step import Step


@dataclass(frozen=True, slots=True)
class PromptRows:
    """On any device, still on their way."""

    sums: Tensor | None  # [P, E] float64, one for each of `Step.pooling` that is pooled
    logits: tuple[Tensor, ...]  # [n, L] float64 each, one for each that is labelled

    def to_host(self) -> "PromptRows":
        """Start copying to pinned memory on the current stream. To be read when that is done."""
        return PromptRows(
            None if self.sums is None else to_pinned(self.sums), tuple(map(to_pinned, self.logits))
        )

    def read(self, step: Step) -> tuple[RowSum | Logits | None, ...]:
        """One for each of `Step.pooling`, None where it is not finite. Waits for tensors that are
        not on the host.
        """
        sums = iter(() if self.sums is None else self.sums)
        logits = iter(self.logits)
        rows = (
            next(logits if _is_labelled(item.sequence.pooled) else sums) for item in step.pooling
        )
        return tuple(row.numpy() if bool(row.isfinite().all()) else None for row in rows)


def prompt_rows(
    step: Step,
    hidden: Tensor,
    head_of: Callable[[int], LabelHead | None],
    *,
    num_padded: int = 0,
) -> PromptRows:
    """Enqueue what `Step.pooling` asks for.

    hidden: [T, E], the step's rows in its order; so many rows of padding come after the decodes.
    `head_of` gives the classification head of an adapter's slot.
    """
    sums, logits = [], []
    end = 0
    for index, item in enumerate(step.scheduled):
        if index == step.num_decodes:
            end += num_padded
        end += item.num_tokens
        if not item.num_pooled:
            continue
        rows = hidden[end - item.num_pooled : end]
        if not _is_labelled(item.sequence.pooled):
            sums.append(rows.sum(0, dtype=torch.float64))
            continue
        head = head_of(item.adapter_slot)
        assert head is not None, "the scheduler admits none without a head"
        logits.append(head.logits(rows).double())
    return PromptRows(torch.stack(sums) if sums else None, tuple(logits))


def _is_labelled(pooled: object) -> bool:
    return isinstance(pooled, LabelledPrompt)
