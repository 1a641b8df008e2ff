"""Steps run at start: for the peak of their activations, and so that no kernel is left to compile
while requests wait.
"""

import msgspec
import torch

from lorax_serve.engine.core import StepRunner
from lorax_serve.engine.device_defaults import StepLimits
from lorax_serve.engine.sequence import Sequence, SequenceId
from lorax_serve.engine.step import ScheduledSequence, Step
from lorax_serve.ipc.types import RequestId, SamplingParams, StopConditions
from lorax_serve.kernels.lora import BASE_SLOT

_FILTERED = SamplingParams(top_p=0.9, typical_p=0.9, num_logprobs=20)
# Between them, every sampling kernel in every variant, so that none is compiled while requests
# wait. The last is for all other rows: what takes most memory.
_SAMPLINGS = (
    SamplingParams(temperature=0.0, num_logprobs=20),
    SamplingParams(),
    _FILTERED,
    SamplingParams(repetition_penalty=1.1),
    msgspec.structs.replace(_FILTERED, repetition_penalty=1.1, frequency_penalty=0.1),
)


def peak_activation_bytes(
    runner: StepRunner,
    limits: StepLimits,
    *,
    max_model_len: int,
    block_size: int,
    device: torch.device,
) -> int:
    """Runs a step of every kind, the largest included; all of them write to block 0."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    for step in steps_of_every_kind(limits, max_model_len=max_model_len, block_size=block_size):
        runner.launch(step).sample().output()
    return torch.cuda.max_memory_allocated(device) - before


def steps_of_every_kind(
    limits: StepLimits, *, max_model_len: int, block_size: int
) -> tuple[Step, ...]:
    """The largest step, then what kernels have variants for: a short prompt and a long one, one
    decode and many.
    """
    longest = min(max_model_len, limits.max_batch_tokens)
    alone = (Step((_item(0, num_tokens, block_size),)) for num_tokens in (2, longest, 1))
    decodes = Step(tuple(_item(index, 1, block_size) for index in range(limits.max_num_sequences)))
    return (
        largest_step(limits, max_model_len=max_model_len, block_size=block_size),
        *alone,
        decodes,
    )


def largest_step(limits: StepLimits, *, max_model_len: int, block_size: int) -> Step:
    """As many sequences as may run, the first ones as long as the token budget allows."""
    items = []
    left = limits.max_batch_tokens
    for index in range(limits.max_num_sequences):
        num_others = limits.max_num_sequences - index - 1
        num_tokens = min(max_model_len, left - num_others)
        items.append(_item(index, num_tokens, block_size))
        left -= num_tokens
    items.sort(key=lambda item: item.num_tokens > 1)
    return Step(tuple(items))


def _item(index: int, num_tokens: int, block_size: int) -> ScheduledSequence:
    sequence = Sequence(
        id=SequenceId(b"profile", RequestId(str(index))),
        arrival=index,
        arrival_time=0.0,
        prompt_token_ids=[0] * num_tokens,
        sampling=_SAMPLINGS[min(index, len(_SAMPLINGS) - 1)],
        stop=StopConditions(max_new_tokens=1),
        eos_token_ids=frozenset(),
    )
    return ScheduledSequence(
        sequence=sequence,
        start=0,
        token_ids=tuple(sequence.prompt_token_ids),
        block_table=(0,) * -(-num_tokens // block_size),
        adapter_slot=BASE_SLOT,
        samples=True,
    )
