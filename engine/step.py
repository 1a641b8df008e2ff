"""A step is a value: what one forward pass will do, and what came of it.

Made by the scheduler, run by the runner, thrown away. Nothing in it is filled in later.
"""

from dataclasses import dataclass
from functools import cached_property

from lorax_serve.engine.sequence import Sequence
from lorax_serve.ipc.types import TokenLogprob


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """`num_tokens` tokens of one sequence, from position `start` on."""

    sequence: Sequence
    start: int
    # The ids at positions start, start + 1, …; the last may be PENDING_TOKEN: what the step before
    # this one samples for the sequence.
    token_ids: tuple[int, ...]
    block_table: tuple[int, ...]  # KV blocks of the sequence, covering start + num_tokens
    adapter_slot: int  # kernels.lora.BASE_SLOT for the base model
    samples: bool  # the last of these tokens is the newest known one: pick its successor

    @classmethod
    def next_of(cls, sequence: Sequence, num_tokens: int) -> "ScheduledSequence":
        """The first `num_tokens` of the sequence that are not computed yet."""
        start = sequence.num_computed
        return cls(
            sequence=sequence,
            start=start,
            token_ids=sequence.tokens(start, start + num_tokens),
            block_table=tuple(sequence.block_table),
            adapter_slot=sequence.adapter_slot,
            samples=start + num_tokens == sequence.num_tokens,
        )

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Step:
    """Sequences in batch order: decodes first, then prompt chunks, each sorted by adapter slot."""

    scheduled: tuple[ScheduledSequence, ...]

    @cached_property
    def num_tokens(self) -> int:
        return sum(item.num_tokens for item in self.scheduled)

    @cached_property
    def num_decodes(self) -> int:
        """Sequences with one token."""
        return sum(item.num_tokens == 1 for item in self.scheduled)

    @cached_property
    def sampling(self) -> tuple[ScheduledSequence, ...]:
        return tuple(item for item in self.scheduled if item.samples)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One entry per `Step.sampling`, in its order."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob | None, ...]  # None where the request asked for none
    finite: tuple[bool, ...]  # False: the row's logits held NaN, or nothing was allowed
