"""Step -> the integers of its buffer. Pure: the same step gives the same integers."""

from collections.abc import Mapping

import numpy as np

from lorax_serve.engine.cuda.step_arrays import Int32s, StepArrays
from lorax_serve.engine.sequence import PENDING_TOKEN, Sequence
from lorax_serve.engine.step import ScheduledSequence, Step


def fill_step(
    arrays: StepArrays[Int32s],
    step: Step,
    *,
    sampled_before: Mapping[Sequence, int],
    tiles: Int32s,
    head_tiles: Int32s,
    block_size: int,
) -> None:
    """Write every section; rows and tiles beyond the step's own are padding.

    `sampled_before` says which place of the step before a sequence's pending token is sampled at.
    """
    _fill_tables(arrays, step)
    arrays.input_ids[step.num_tokens :] = 0
    arrays.sources[:] = -1
    arrays.positions[step.num_tokens :] = 0
    arrays.slot_mapping[step.num_tokens :] = -1
    if all(item.num_tokens == 1 for item in step.scheduled):
        _fill_decodes(arrays, step.scheduled, sampled_before, block_size)
    else:
        _fill_rows(arrays, step.scheduled, sampled_before, block_size)
    ends = arrays.query_indptr[1 : len(step.scheduled) + 1]
    sampled = [end - 1 for end, item in zip(ends, step.scheduled, strict=True) if item.samples]
    arrays.sampled_rows[: len(sampled)] = sampled
    for section, wanted in ((arrays.tiles, tiles), (arrays.head_tiles, head_tiles)):
        section[: len(wanted)] = wanted
        section[len(wanted) :] = -1


def _fill_tables(arrays: StepArrays[Int32s], step: Step) -> None:
    items = step.scheduled
    num = len(items)
    counts = np.fromiter((item.num_tokens for item in items), np.int32, num)
    starts = np.fromiter((item.start for item in items), np.int32, num)
    arrays.query_indptr[0] = 0
    np.cumsum(counts, out=arrays.query_indptr[1 : num + 1])
    # A padded sequence has one row and sees one key, of whichever block comes first.
    arrays.query_indptr[num + 1 :] = arrays.query_indptr[num] + np.arange(
        1, len(arrays.query_indptr) - num, dtype=np.int32
    )
    arrays.context_lens[:num] = starts + counts
    arrays.context_lens[num:] = 1
    tables = arrays.block_tables
    for row, item in enumerate(items):
        tables[row, : len(item.block_table)] = item.block_table
        tables[row, len(item.block_table) :] = 0
    tables[num:] = 0


def _fill_decodes(
    arrays: StepArrays[Int32s],
    items: tuple[ScheduledSequence, ...],
    sampled_before: Mapping[Sequence, int],
    block_size: int,
) -> None:
    """One row a sequence, all at once."""
    num = len(items)
    ids = np.fromiter((item.token_ids[0] for item in items), np.int32, num)
    positions = arrays.context_lens[:num] - 1
    arrays.input_ids[:num] = np.maximum(ids, 0)
    arrays.positions[:num] = positions
    blocks = arrays.block_tables[np.arange(num), positions // block_size]
    arrays.slot_mapping[:num] = blocks * block_size + positions % block_size
    for row in np.flatnonzero(ids == PENDING_TOKEN):
        arrays.sources[row] = sampled_before[items[row].sequence]


def _fill_rows(
    arrays: StepArrays[Int32s],
    items: tuple[ScheduledSequence, ...],
    sampled_before: Mapping[Sequence, int],
    block_size: int,
) -> None:
    row = 0
    for index, item in enumerate(items):
        rows = slice(row, row + item.num_tokens)
        positions = np.arange(item.start, item.start + item.num_tokens, dtype=np.int32)
        arrays.input_ids[rows] = item.token_ids
        arrays.positions[rows] = positions
        blocks = arrays.block_tables[index, positions // block_size]
        arrays.slot_mapping[rows] = blocks * block_size + positions % block_size
        row += item.num_tokens
        if item.token_ids[-1] == PENDING_TOKEN:
            arrays.input_ids[row - 1] = 0
            arrays.sources[row - 1] = sampled_before[item.sequence]
