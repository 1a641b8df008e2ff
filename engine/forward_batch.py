"""Step -> tensors. Pure: the same step gives the same tensors, and nothing is kept.

Legend: T rows of the step, B sequences, P blocks per table, N sampled rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import torch

from lorax_serve.engine.step import ScheduledSequence, Step
from lorax_serve.kernels.attention_batch import AttentionBatch
from lorax_serve.kernels.lora import BASE_SLOT, Segments


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The tensors of a step, on the model's device."""

    input_ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64
    attention: AttentionBatch
    sampled_rows: torch.Tensor  # [N] int64: rows whose logits are wanted


def build_forward_batch(step: Step, *, block_size: int, device: torch.device) -> ForwardBatch:
    """Lay the step's sequences out row after row, in the order of the step."""
    items = step.scheduled
    indptr = list(accumulate((item.num_tokens for item in items), initial=0))
    sampled = [end - 1 for item, end in zip(items, indptr[1:], strict=True) if item.samples]

    def long(values: Iterable[int]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.int64, device=device)

    return ForwardBatch(
        input_ids=long(token for item in items for token in item.token_ids),
        positions=long(p for item in items for p in _positions(item)),
        attention=AttentionBatch(
            slot_mapping=long(s for item in items for s in _kv_slots(item, block_size)),
            block_tables=_block_tables(items, device),
            query_indptr=torch.tensor(indptr, dtype=torch.int32, device=device),
            context_lens=torch.tensor(
                [item.start + item.num_tokens for item in items], dtype=torch.int32, device=device
            ),
            num_decodes=step.num_decodes,
            max_query_len=max(item.num_tokens for item in items),
            max_context_len=max(item.start + item.num_tokens for item in items),
        ),
        sampled_rows=long(sampled),
    )


def row_segments(step: Step, *, num_padded: int = 0) -> Segments:
    """Which adapter each of the T rows uses; so many rows of padding come after the decodes."""
    runs = [(item.adapter_slot, item.num_tokens) for item in step.scheduled]
    if num_padded:
        runs.insert(step.num_decodes, (BASE_SLOT, num_padded))
    return _segments(runs)


def sampled_segments(step: Step) -> Segments:
    """Which adapter each of the N sampled rows uses."""
    return _segments((item.adapter_slot, 1) for item in step.sampling)


def _segments(runs: Iterable[tuple[int, int]]) -> Segments:
    """Merge neighbouring (slot, number of rows) runs of equal slot."""
    indptr, slots = [0], list[int]()
    for slot, num_rows in runs:
        if slots and slots[-1] == slot:
            indptr[-1] += num_rows
        else:
            slots.append(slot)
            indptr.append(indptr[-1] + num_rows)
    return Segments(indptr=tuple(indptr), slots=tuple(slots))


def _positions(item: ScheduledSequence) -> range:
    return range(item.start, item.start + item.num_tokens)


def _kv_slots(item: ScheduledSequence, block_size: int) -> Iterable[int]:
    table = item.block_table
    return (table[p // block_size] * block_size + p % block_size for p in _positions(item))


def _block_tables(items: tuple[ScheduledSequence, ...], device: torch.device) -> torch.Tensor:
    width = max(len(item.block_table) for item in items)
    rows = [[*item.block_table, *([0] * (width - len(item.block_table)))] for item in items]
    return torch.tensor(rows, dtype=torch.int32, device=device)
