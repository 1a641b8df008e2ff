import torch

from lorax_serve.engine.forward_batch import (
    build_forward_batch,
    row_segments,
    sampled_segments,
)
from lorax_serve.engine.sequence import Sequence, SequenceId
from lorax_serve.engine.step import ScheduledSequence, Step
from lorax_serve.ipc.types import RequestId, SamplingParams, StopConditions
from lorax_serve.kernels.lora import Segments


def scheduled(
    tokens: tuple[int, ...], start: int, table: tuple[int, ...], slot: int, *, samples: bool = True
) -> ScheduledSequence:
    sequence = Sequence(
        id=SequenceId(b"", RequestId("r")),
        arrival=0,
        arrival_time=0.0,
        prompt_token_ids=list(tokens),
        sampling=SamplingParams(),
        stop=StopConditions(max_new_tokens=1),
        eos_token_ids=frozenset(),
    )
    return ScheduledSequence(sequence, start, tokens, table, slot, samples)


STEP = Step(
    (
        scheduled((7,), 5, (2, 9), -1),
        scheduled((8,), 3, (4,), 1),
        scheduled((1, 2, 3), 0, (6,), 1, samples=False),
        scheduled((4, 5), 4, (3, 1, 8), 0),
    )
)


def test_rows_are_laid_out_in_the_order_of_the_step() -> None:
    batch = build_forward_batch(STEP, block_size=4, device=torch.device("cpu"))
    assert batch.input_ids.tolist() == [7, 8, 1, 2, 3, 4, 5]
    assert batch.positions.tolist() == [5, 3, 0, 1, 2, 4, 5]
    assert batch.sampled_rows.tolist() == [0, 1, 6]
    attention = batch.attention
    assert attention.slot_mapping.tolist() == [37, 19, 24, 25, 26, 4, 5]
    assert attention.block_tables.tolist() == [[2, 9, 0], [4, 0, 0], [6, 0, 0], [3, 1, 8]]
    assert attention.query_indptr.tolist() == [0, 1, 2, 5, 7]
    assert attention.context_lens.tolist() == [6, 4, 3, 6]
    assert (attention.num_decodes, attention.max_query_len, attention.max_context_len) == (2, 3, 6)


def test_neighbours_with_one_adapter_share_a_segment() -> None:
    assert row_segments(STEP) == Segments(indptr=(0, 1, 5, 7), slots=(-1, 1, 0))
    assert sampled_segments(STEP) == Segments(indptr=(0, 1, 2, 3), slots=(-1, 1, 0))
