"""What the sampler is told about a step's sequences, read from them as they are now."""

import torch

from lorax_serve.engine.sampling.rows import MaskRows, SamplingRow
from lorax_serve.engine.step import ScheduledSequence
from lorax_serve.grammar.mask import allocate_bitmask


def sampling_rows(items: tuple[ScheduledSequence, ...]) -> list[SamplingRow]:
    return [
        SamplingRow(
            params=item.sequence.sampling,
            prompt_token_ids=item.sequence.prompt_token_ids,
            output_token_ids=item.sequence.output_token_ids,
        )
        for item in items
    ]


def mask_rows(items: tuple[ScheduledSequence, ...], vocab_size: int) -> MaskRows | None:
    """The grammar masks of constrained rows; None when there are none."""
    guides = [(row, item.sequence.guide) for row, item in enumerate(items) if item.sequence.guide]
    if not guides:
        return None
    bitmask = allocate_bitmask(len(guides), vocab_size)
    for mask_row, (_, guide) in enumerate(guides):
        guide.fill_mask(bitmask[mask_row].numpy())
    return MaskRows(
        rows=torch.tensor([row for row, _ in guides], dtype=torch.int64), bitmask=bitmask
    )
