"""One generation in the engine: its token ids and how far it has come.

Knows no tensors, no sockets and no text.
"""

import enum
import itertools
from dataclasses import dataclass, field

from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.grammar.guide import Guide
from lorax_serve.ipc.types import (
    AdapterRef,
    FinishReason,
    RequestId,
    SamplingParams,
    StopConditions,
)
from lorax_serve.kernels.lora import BASE_SLOT


class SequenceStatus(enum.Enum):
    WAITING = "waiting"  # owns no blocks and pins no adapter
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class SequenceId:
    """Which request of which frontend."""

    frontend: bytes
    request_id: RequestId


@dataclass(eq=False, slots=True)
class Sequence:
    """Positions 0..num_computed-1 have keys and values in the cache; later ones do not yet."""

    id: SequenceId
    arrival: int  # order of arrival; decides who runs first and who is preempted last
    arrival_time: float  # seconds, monotonic clock
    prompt_token_ids: list[int]
    sampling: SamplingParams
    stop: StopConditions
    eos_token_ids: frozenset[int]
    adapter: AdapterRef | None = None
    guide: Guide | None = None
    cache_salt: str = ""
    output_token_ids: list[int] = field(default_factory=list)
    status: SequenceStatus = SequenceStatus.WAITING
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)  # prefix-cache keys of full blocks
    num_registered: int = 0  # leading blocks already offered to the prefix cache
    slot: AdapterSlot | None = None  # pinned while running
    adapter_digest: str | None = None  # of the weights it first ran on
    num_cached_tokens: int = 0  # found in the prefix cache at first admission
    first_scheduled_time: float | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def adapter_slot(self) -> int:
        return BASE_SLOT if self.slot is None else self.slot.index

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        """The ids at positions start..stop-1, prompt and output alike."""
        split = self.num_prompt_tokens
        if stop <= split:
            return tuple(self.prompt_token_ids[start:stop])
        if start >= split:
            return tuple(self.output_token_ids[start - split : stop - split])
        both = itertools.chain(self.prompt_token_ids[start:], self.output_token_ids[: stop - split])
        return tuple(both)

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
