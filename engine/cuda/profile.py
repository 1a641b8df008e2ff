"""The peak of a step's activations, measured by running the largest step there may be."""

import torch

from lorax_serve.engine.core import StepRunner
from lorax_serve.engine.device_defaults import StepLimits
from lorax_serve.engine.sequence import Sequence, SequenceId
from lorax_serve.engine.step import ScheduledSequence, Step
from lorax_serve.ipc.types import RequestId, SamplingParams, StopConditions
from lorax_serve.kernels.lora import BASE_SLOT


def peak_activation_bytes(
    runner: StepRunner,
    limits: StepLimits,
    *,
    max_model_len: int,
    block_size: int,
    device: torch.device,
) -> int:
    """Runs one step of `max_batch_tokens` tokens; all of it is written to block 0."""
    step = largest_step(limits, max_model_len=max_model_len, block_size=block_size)
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    runner.launch(step).sample().output()
    return torch.cuda.max_memory_allocated(device) - before


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
        # What takes most memory beside the logits: every filter that ranks a whole row, and
        # log-probabilities. The first row is drawn otherwise, so that rows have to be picked out.
        sampling=SamplingParams(
            temperature=1.0,
            seed=index,
            top_p=0.9 if index else 1.0,
            typical_p=0.9 if index else 1.0,
            num_logprobs=20,
        ),
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
