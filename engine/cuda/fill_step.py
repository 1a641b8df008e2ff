"""Step -> the integers of its buffer. Pure: the same step gives the same integers."""

from collections.abc import Mapping

import numpy as np

from lorax_serve.engine.cuda.step_arrays import Int32s, StepArrays, StepShape
from lorax_serve.engine.sequence import PENDING_TOKEN, Sequence
from lorax_serve.engine.step import ScheduledSequence, Step


def fill_step(
    arrays: StepArrays[Int32s],
    step: Step,
    shape: StepShape,
    *,
    sampled_before: Mapping[Sequence, int],
    tiles: Int32s,
    head_tiles: Int32s,
    block_size: int,
) -> None:
    """Write every section of arrays of this shape, which holds the step: decodes, padding, prompts,
    padding.

    `sampled_before` says which place of the step before a sequence's pending token is sampled at.
    """
    num_decodes = step.num_decodes
    decodes, prompts = step.scheduled[:num_decodes], step.scheduled[num_decodes:]
    places = [*range(num_decodes), *range(shape.num_decodes, shape.num_decodes + len(prompts))]
    _fill_tables(arrays, step.scheduled, places, shape)
    arrays.input_ids[num_decodes:] = 0
    arrays.positions[num_decodes:] = 0
    arrays.slot_mapping[num_decodes:] = -1
    arrays.sources[:] = -1
    _fill_decodes(arrays, decodes, sampled_before, block_size)
    for place, item in zip(places[num_decodes:], prompts, strict=True):
        _fill_prompt(arrays, place, item, sampled_before, block_size)
    sampled = [
        arrays.query_indptr[place + 1] - 1
        for place, item in zip(places, step.scheduled, strict=True)
        if item.samples
    ]
    arrays.sampled_rows[: len(sampled)] = sampled
    for section, wanted in ((arrays.tiles, tiles), (arrays.head_tiles, head_tiles)):
        section[: len(wanted)] = wanted
        section[len(wanted) :] = -1


def _fill_tables(
    arrays: StepArrays[Int32s],
    items: tuple[ScheduledSequence, ...],
    places: list[int],
    shape: StepShape,
) -> None:
    """A padded decode has one row, a padded prompt none; both see one key, of whichever block comes
    first.
    """
    counts = np.zeros(shape.num_sequences, dtype=np.int32)
    counts[: shape.num_decodes] = 1
    counts[places] = [item.num_tokens for item in items]
    arrays.query_indptr[0] = 0
    np.cumsum(counts, out=arrays.query_indptr[1:])
    arrays.context_lens[:] = 1
    arrays.context_lens[places] = [item.start + item.num_tokens for item in items]
    tables = arrays.block_tables
    tables[:] = 0
    for place, item in zip(places, items, strict=True):
        tables[place, : len(item.block_table)] = item.block_table


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


def _fill_prompt(
    arrays: StepArrays[Int32s],
    place: int,
    item: ScheduledSequence,
    sampled_before: Mapping[Sequence, int],
    block_size: int,
) -> None:
    rows = slice(arrays.query_indptr[place], arrays.query_indptr[place + 1])
    positions = np.arange(item.start, item.start + item.num_tokens, dtype=np.int32)
    arrays.input_ids[rows] = item.token_ids
    arrays.positions[rows] = positions
    blocks = arrays.block_tables[place, positions // block_size]
    arrays.slot_mapping[rows] = blocks * block_size + positions % block_size
    if item.token_ids[-1] == PENDING_TOKEN:
        arrays.input_ids[rows.stop - 1] = 0
        arrays.sources[rows.stop - 1] = sampled_before[item.sequence]
