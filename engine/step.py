"""A step is a value: what one forward pass will do, and what came of it.

Made by the scheduler, run by the runner, thrown away. Nothing in it is filled in later.
"""

from dataclasses import dataclass
from functools import cached_property

from lorax_serve.engine.labelled_prompt import Logits
from lorax_serve.engine.pooled_prompt import RowSum
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
    # Of so many of the last of these tokens the final hidden states are wanted: their sum, or what
    # a classification head says of each.
    num_pooled: int = 0
    num_scored: int = 0  # of the first of these tokens, the logprobs of their successors are wanted

    @classmethod
    def next_of(cls, sequence: Sequence, num_tokens: int) -> "ScheduledSequence":
        """The first `num_tokens` of the sequence that are not computed yet."""
        start = sequence.num_computed
        is_last = start + num_tokens == sequence.num_tokens
        pooled = sequence.pooled
        num_unscored = sequence.num_prompt_tokens - 1 - start if sequence.is_scoring else 0
        return cls(
            sequence=sequence,
            start=start,
            token_ids=sequence.tokens(start, start + num_tokens),
            block_table=tuple(sequence.block_table),
            adapter_slot=sequence.adapter_slot,
            samples=is_last and pooled is None,
            num_pooled=0 if pooled is None else pooled.num_wanted(num_tokens, is_last=is_last),
            num_scored=min(max(num_unscored, 0), num_tokens),
        )

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def scored_token_ids(self) -> tuple[int, ...]:
        """The successors of the first `num_scored` tokens."""
        return self.sequence.tokens(self.start + 1, self.start + 1 + self.num_scored)


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

    @cached_property
    def scoring(self) -> tuple[ScheduledSequence, ...]:
        """Those of which logprobs of prompt tokens are wanted."""
        return tuple(item for item in self.scheduled if item.num_scored)

    @cached_property
    def pooling(self) -> tuple[ScheduledSequence, ...]:
        """Those of which hidden states are wanted."""
        return tuple(item for item in self.scheduled if item.num_pooled)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One entry per `Step.sampling`, in its order; of prompt logprobs one per `Step.scoring`, of
    rows one per `Step.pooling`."""

    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob | None, ...]  # None where the request asked for none
    finite: tuple[bool, ...]  # False: the row's logits held NaN, or nothing was allowed
    # Of each one's `scored_token_ids`; None: some of the logits held NaN or were all -inf.
    prompt_logprobs: tuple[tuple[TokenLogprob, ...] | None, ...] = ()
    # The sum of what is pooled, the logits of what is labelled; None: some were not finite.
    rows: tuple[RowSum | Logits | None, ...] = ()
