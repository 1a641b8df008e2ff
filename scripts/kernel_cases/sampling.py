"""Picking tokens over the vocabulary of Llama 3: greedy, and the boundary of a nucleus.

Legend: N rows, V vocabulary.
"""

import torch

from kernel_cases.case import Call, Case, rotation
from lorax_serve.engine.sampling.ranking import rank_keys
from lorax_serve.engine.sampling.selection import highest
from lorax_serve.kernels.triton.mass_boundary import mass_boundary

V = 128256
NUM_ROWS = (1, 128, 256)


def cases() -> list[Case]:
    return [case(num_rows) for case in (greedy, nucleus) for num_rows in NUM_ROWS]


def greedy(num_rows: int) -> Case:
    def make_call(device: torch.device) -> Call:
        logits = torch.randn(num_rows, V, dtype=torch.bfloat16, device=device)
        return lambda: highest(logits)

    num_bytes = 2 * num_rows * V
    return Case("greedy", {"N": num_rows, "V": V}, num_bytes, 0, rotation(num_bytes, make_call))


def nucleus(num_rows: int) -> Case:
    def make_call(device: torch.device) -> Call:
        scores = torch.randn(num_rows, V, device=device) * 3
        scores -= scores.amax(-1, keepdim=True)
        keys, probs = rank_keys(scores.abs()), scores.softmax(-1)
        mass = torch.full((num_rows, 1), 0.9, dtype=torch.float64, device=device)
        return lambda: mass_boundary(keys, probs, mass)

    num_bytes = (8 + 4) * num_rows * V
    return Case("nucleus", {"N": num_rows, "V": V}, num_bytes, 0, rotation(num_bytes, make_call))
