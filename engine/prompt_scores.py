"""The logprobs of a step's prompt tokens, on any device."""

from collections.abc import Callable

from torch import Tensor

from lorax_serve.engine.sampling.prompt_logprobs import ScoredRows, score
from lorax_serve.engine.step import Step
from lorax_serve.kernels.lora import Segments

PromptScores = tuple[tuple[ScoredRows, ...], ...]  # one entry per `Step.scoring`


def score_prompts(
    step: Step,
    hidden: Tensor,
    *,
    vocab_size: int,
    logits_of: Callable[[Tensor, Segments], Tensor],
) -> PromptScores:
    """Enqueue what `Step.scoring` asks for.

    hidden: [T, E], the step's rows in its order, without padding; `logits_of` makes [n, V] of some
    of them, which are in the segments.
    """
    scores = []
    first = 0
    for item in step.scheduled:
        if item.num_scored:

            def logits_of_item(rows: Tensor, slot: int = item.adapter_slot) -> Tensor:
                return logits_of(rows, Segments(indptr=(0, len(rows)), slots=(slot,)))

            scores.append(
                score(
                    hidden[first : first + item.num_scored],
                    item.scored_token_ids,
                    item.sequence.num_prompt_logprobs or 0,
                    vocab_size=vocab_size,
                    logits_of=logits_of_item,
                )
            )
        first += item.num_tokens
    return tuple(scores)
