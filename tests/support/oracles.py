"""Greedy tokens and pooled states of transformers and PEFT, and random prompts to compare on."""

import random

import numpy as np
import torch

from lorax_serve.ipc.types import Pooling


def prompts(number: int, seed: int, low: int = 1, high: int = 40) -> list[list[int]]:
    """`number` prompts of `low` to `high` random ids that every tiny vocabulary has."""
    rng = random.Random(seed)
    return [[rng.randrange(3, 300) for _ in range(rng.randint(low, high))] for _ in range(number)]


def reference_tokens(
    model: torch.nn.Module,
    prompt: list[int],
    num_tokens: int,
    *,
    end: int | None = None,
    min_tokens: int | None = None,
) -> list[int]:
    """Greedy tokens up to `end`, which may come after `min_tokens`; without one `num_tokens` of
    them, whatever the generation config thinks of when to stop.
    """
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens if min_tokens is None else min_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=0,
        )
    return output[0, len(prompt) :].tolist()


def is_greedy(model: torch.nn.Module, prompt: list[int], token_ids: list[int]) -> bool:
    """Whether `token_ids` is the model's greedy continuation of `prompt`.

    By induction: each token is the arg-max after all the ones before it. One forward pass, where
    generating would take one for each token.
    """
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + token_ids])).logits[0]
    return logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist() == token_ids


def reference_vector(model: torch.nn.Module, prompt: list[int], how: Pooling) -> np.ndarray:
    """The pooled hidden states after the final norm, [E] of length 1."""
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
    states = output.hidden_states[-1][0].float()
    pooled = states.mean(0) if how is Pooling.MEAN else states[-1]
    return torch.nn.functional.normalize(pooled, dim=0).numpy()
