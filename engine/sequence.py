"""One request in the engine: its token ids and how far it has come.

Knows no tensors, no sockets and no text.
"""

import enum
from dataclasses import dataclass, field

from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.engine.labelled_prompt import LabelledPrompt
from lorax_serve.engine.pooled_prompt import PooledPrompt
from lorax_serve.grammar.guide import Guide
from lorax_serve.ipc.types import (
    AnyAdapterRef,
    FinishReason,
    HeadKind,
    RequestId,
    SamplingParams,
    StopConditions,
)
from lorax_serve.kernels.lora import BASE_SLOT

PENDING_TOKEN = -1  # stands for a token that is sampled on the device but not known here yet


class SequenceStatus(enum.Enum):
    WAITING = "waiting"  # pins no adapter, and owns no blocks unless it is parked
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class SequenceId:
    """Which request of which frontend."""

    frontend: bytes
    request_id: RequestId


@dataclass(eq=False, slots=True)
class Sequence:
    """Positions 0..num_computed-1 have keys and values in the cache once the steps launched so far
    have run; later ones do not."""

    id: SequenceId
    arrival: int  # order of arrival; decides who goes first among equals, and who is preempted last
    arrival_time: float  # seconds, monotonic clock
    prompt_token_ids: list[int]
    sampling: SamplingParams
    stop: StopConditions
    eos_token_ids: frozenset[int]
    adapter: AnyAdapterRef | None = None
    guide: Guide | None = None
    cache_salt: str = ""
    tenant: str = ""
    num_prompt_logprobs: int | None = None  # see Generate
    # What becomes of the prompt where nothing is generated.
    pooled: PooledPrompt | LabelledPrompt | None = None
    num_scored: int = 0  # prompt tokens whose logprobs were told, those from position 1 on
    output_token_ids: list[int] = field(default_factory=list)
    num_pending: int = 0  # tokens being sampled by steps in flight, after those of the output
    status: SequenceStatus = SequenceStatus.WAITING
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)  # prefix-cache keys of full blocks
    num_registered: int = 0  # leading blocks already offered to the prefix cache
    slot: AdapterSlot | None = None  # pinned while running
    adapter_digest: str | None = None  # of the weights it first ran on
    num_cached_tokens: int = 0  # found in the prefix cache at first admission
    first_scheduled_time: float | None = None
    stays_until: int = 0  # so many output tokens: before, it gives its place to nobody

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_known(self) -> int:
        """Tokens whose ids are here."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens known or pending."""
        return self.num_known + self.num_pending

    @property
    def ends_with_pending(self) -> bool:
        """Whether the tokens in flight are the last ones allowed, whatever they are."""
        return len(self.output_token_ids) + self.num_pending >= self.stop.max_new_tokens

    @property
    def adapter_slot(self) -> int:
        return BASE_SLOT if self.slot is None else self.slot.index

    @property
    def is_scoring(self) -> bool:
        """Whether logprobs of the prompt are still to be told."""
        return self.num_prompt_logprobs is not None and self.num_scored < self.num_prompt_tokens - 1

    @property
    def needs_every_row(self) -> bool:
        """Whether all of the prompt has to be computed, whatever is in the prefix cache."""
        return self.is_scoring or (self.pooled is not None and self.pooled.needs_every_row)

    def problem_with(self, head: HeadKind | None) -> str | None:
        """Why an adapter with this classification head, or none, cannot do what is asked for."""
        name = self.adapter.name if self.adapter else ""
        if head is None and isinstance(self.pooled, LabelledPrompt):
            return f"Adapter {name!r} has no classification head."
        if head is not None and self.pooled is None:
            return f"Adapter {name!r} was trained to classify, and does not generate."
        return None

    @property
    def banned_token_ids(self) -> frozenset[int]:
        """What would end the sequence now, too early."""
        if len(self.output_token_ids) >= self.stop.min_new_tokens:
            return frozenset()
        ending = frozenset(self.stop.stop_token_ids)
        ignores_eos = self.guide is None and self.stop.ignore_eos
        return ending if ignores_eos else ending | self.eos_token_ids

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        """The ids at positions start..stop-1, prompt and output alike; PENDING_TOKEN for those that
        are not known yet."""
        split = self.num_prompt_tokens
        if stop <= split:
            return tuple(self.prompt_token_ids[start:stop])
        output = self.output_token_ids[max(0, start - split) : stop - split]
        pending = (PENDING_TOKEN,) * (stop - max(start, self.num_known))
        if start >= split:
            return (*output, *pending)
        return (*self.prompt_token_ids[start:], *output, *pending)

    def finish_reason(self) -> FinishReason | None:
        """Whether the newest output token ends the sequence. EOS outranks length."""
        token = self.output_token_ids[-1]
        # A grammar that is complete allows nothing but EOS, so ignoring it would loop forever.
        if token in self.eos_token_ids and (self.guide is not None or not self.stop.ignore_eos):
            return FinishReason.EOS
        if token in self.stop.stop_token_ids:
            return FinishReason.STOP_TOKEN
        if len(self.output_token_ids) >= self.stop.max_new_tokens:
            return FinishReason.LENGTH
        return None
