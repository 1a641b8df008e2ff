"""The GPU's step buffer says what the CPU's tensors say, and padding says nothing."""

import random

import numpy as np
import torch

from lorax_serve.engine.cuda.fill_step import fill_step
from lorax_serve.engine.cuda.step_arrays import Int32s, StepArrays, StepLayout, StepShape
from lorax_serve.engine.forward_batch import build_forward_batch, row_segments
from lorax_serve.engine.sequence import PENDING_TOKEN, Sequence, SequenceId
from lorax_serve.engine.step import ScheduledSequence, Step
from lorax_serve.ipc.types import RequestId, SamplingParams, StopConditions
from lorax_serve.kernels.lora_table import tiles_of

BLOCK_SIZE = 4
TABLE_WIDTH = 8


def item(
    rng: random.Random, num_tokens: int, *, slot: int = -1, samples: bool = True
) -> ScheduledSequence:
    start = rng.randrange(0, BLOCK_SIZE * TABLE_WIDTH - num_tokens)
    num_blocks = -(-(start + num_tokens) // BLOCK_SIZE)
    token_ids = tuple(rng.randrange(100) for _ in range(num_tokens))
    sequence = Sequence(
        id=SequenceId(b"f", RequestId(str(rng.random()))),
        arrival=0,
        arrival_time=0.0,
        prompt_token_ids=[0] * start + list(token_ids),
        sampling=SamplingParams(),
        stop=StopConditions(max_new_tokens=9),
        eos_token_ids=frozenset(),
    )
    table = tuple(rng.randrange(50) for _ in range(num_blocks))
    return ScheduledSequence(sequence, start, token_ids, table, slot, samples)


def filled(
    step: Step, layout: StepLayout, sampled_before: dict[Sequence, int] | None = None
) -> StepArrays[Int32s]:
    buffer = np.full(layout.num_elements, 12345, dtype=np.int32)
    arrays = layout.host_views(buffer)
    num_padded = layout.shape.num_decodes - step.num_decodes
    tiles = tiles_of(row_segments(step, num_padded=num_padded), 4)
    fill_step(
        arrays,
        step,
        layout.shape,
        sampled_before=sampled_before or {},
        tiles=tiles,
        head_tiles=tiles[:0],
        block_size=BLOCK_SIZE,
    )
    # The device reads what the host wrote, wherever it lies.
    seen = layout.device_views(torch.from_numpy(buffer))
    for name in StepArrays.__slots__:
        assert np.array_equal(getattr(seen, name).numpy(), getattr(arrays, name)), name
    return arrays


def layout_of(shape: StepShape, num_sampled: int, num_tiles: int) -> StepLayout:
    return StepLayout(shape, TABLE_WIDTH, num_sampled, num_tiles, num_sampled)


def check_like_the_cpu(arrays: StepArrays[Int32s], step: Step) -> None:
    expected = build_forward_batch(step, block_size=BLOCK_SIZE, device=torch.device("cpu"))
    num_rows, num = step.num_tokens, len(step.scheduled)
    attention = expected.attention
    width = attention.block_tables.shape[1]
    for got, wanted in (
        (arrays.input_ids[:num_rows], expected.input_ids),
        (arrays.positions[:num_rows], expected.positions),
        (arrays.slot_mapping[:num_rows], attention.slot_mapping),
        (arrays.context_lens[:num], attention.context_lens),
        (arrays.block_tables[:num, :width], attention.block_tables),
        (arrays.query_indptr[: num + 1], attention.query_indptr),
        (arrays.sampled_rows[: len(step.sampling)], expected.sampled_rows),
    ):
        assert got.tolist() == wanted.tolist()


def test_decodes_and_prompts_equal_the_cpu_batch() -> None:
    rng = random.Random(1)
    for counts in ([1], [1, 1, 1], [7], [1, 1, 5, 9], [1, 12]):
        items = tuple(
            item(rng, num, slot=rng.choice([-1, 0, 3]), samples=num != 9) for num in counts
        )
        items = tuple(sorted(items, key=lambda i: (i.num_tokens > 1, i.adapter_slot)))
        step = Step(items)
        arrays = filled(step, layout_of(StepShape.of(step), len(step.sampling), step.num_tokens))
        check_like_the_cpu(arrays, step)
        assert (arrays.sources == -1).all()


def test_padding_writes_nothing_and_uses_no_adapter() -> None:
    rng = random.Random(2)
    step = Step(tuple(item(rng, 1, slot=slot) for slot in (-1, 2, 2)))
    arrays = filled(step, layout_of(StepShape(8), 8, 8))
    check_like_the_cpu(arrays, step)
    assert (arrays.slot_mapping[3:] == -1).all()
    assert (arrays.context_lens[3:] == 1).all()
    assert not arrays.block_tables[3:].any()
    assert arrays.query_indptr.tolist() == list(range(9))
    assert arrays.tiles[:1].tolist() == [[2, 1, 2]]
    assert (arrays.tiles[1:] == -1).all() and (arrays.head_tiles == -1).all()


def test_padding_lies_between_decodes_and_prompts_and_after_them() -> None:
    """What each sequence finds, wherever the shape puts it, is what it finds without padding."""
    rng = random.Random(4)
    items = [item(rng, num, slot=2, samples=num != 5) for num in (1, 1, 5, 9)]
    step = Step(tuple(items))
    dense = filled(step, layout_of(StepShape.of(step), 3, 16))
    padded = filled(step, layout_of(StepShape(4, 3, 20), 7, 16))
    indptr = padded.query_indptr.tolist()
    assert indptr == [0, 1, 2, 3, 4, 9, 18, 18]
    for got, wanted, item_ in zip((0, 1, 4, 5), range(4), items, strict=True):
        assert padded.context_lens[got] == dense.context_lens[wanted]
        assert padded.block_tables[got].tolist() == dense.block_tables[wanted].tolist()
        for name in ("input_ids", "positions", "slot_mapping", "sources"):
            rows = getattr(padded, name)[indptr[got] : indptr[got + 1]]
            start = dense.query_indptr[wanted]
            assert rows.tolist() == getattr(dense, name)[start : start + item_.num_tokens].tolist()
    assert padded.sampled_rows[:3].tolist() == [0, 1, 17]
    assert (padded.slot_mapping[[2, 3, *range(18, 24)]] == -1).all()
    assert padded.context_lens[[2, 3, 6]].tolist() == [1, 1, 1]
    assert not padded.block_tables[[2, 3, 6]].any()
    assert padded.tiles[:5].tolist() == [[2, 0, 2], [2, 4, 4], [2, 8, 4], [2, 12, 4], [2, 16, 2]]
    assert (padded.tiles[5:] == -1).all()


def test_pending_tokens_point_at_what_the_step_before_samples() -> None:
    rng = random.Random(3)
    first, second, third = (item(rng, num) for num in (1, 1, 3))
    pending = [
        ScheduledSequence(
            each.sequence,
            each.start,
            (*each.token_ids[:-1], PENDING_TOKEN),
            each.block_table,
            -1,
            True,
        )
        for each in (second, third)
    ]
    places = {first.sequence: 9, second.sequence: 4, third.sequence: 0}
    decodes = filled(Step((first, pending[0])), layout_of(StepShape(2), 2, 2), places)
    assert decodes.sources.tolist() == [-1, 4]
    assert decodes.input_ids.tolist() == [first.token_ids[0], 0]
    mixed = filled(Step((first, *pending)), layout_of(StepShape(2, 1, 3), 3, 5), places)
    assert mixed.sources.tolist() == [-1, 4, -1, -1, 0]
    assert mixed.input_ids.tolist() == [first.token_ids[0], 0, *third.token_ids[:2], 0]
