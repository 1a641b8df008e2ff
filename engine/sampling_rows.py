"""What the sampler is told about a step's sequences, read from them as they are now."""

import numpy as np
import numpy.typing as npt
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
            # Those of a constrained row are in its mask.
            banned_token_ids=() if item.sequence.guide else tuple(item.sequence.banned_token_ids),
        )
        for item in items
    ]


def mask_rows(items: tuple[ScheduledSequence, ...], vocab_size: int) -> MaskRows | None:
    """The grammar masks of constrained rows; None when there are none."""
    guides = [(row, item.sequence.guide) for row, item in enumerate(items) if item.sequence.guide]
    if not guides:
        return None
    bitmask = allocate_bitmask(len(guides), vocab_size)
    for mask_row, (row, guide) in enumerate(guides):
        allowed = bitmask[mask_row].numpy()
        guide.fill_mask(allowed)
        _ban(allowed, items[row].sequence.banned_token_ids)
    return MaskRows(
        rows=torch.tensor([row for row, _ in guides], dtype=torch.int64), bitmask=bitmask
    )


def _ban(allowed: npt.NDArray[np.int32], token_ids: frozenset[int]) -> None:
    """Take bits out of a mask [W], unless none would be left: what a grammar has ended, ends."""
    rest = allowed.copy()
    words = rest.view(np.uint32)
    for token_id in token_ids:
        words[token_id // 32] &= ~np.uint32(1 << token_id % 32)
    if rest.any():
        allowed[:] = rest
