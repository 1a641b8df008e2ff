"""Picking tokens over the vocabulary of Llama 3: greedy, drawn whole, drawn from a nucleus.

Legend: N rows, V vocabulary.
"""

import torch

from kernel_cases.case import Call, Case, rotation
from lorax_serve.engine.sampling.rows import SamplingRow
from lorax_serve.engine.sampling.sampler import launch
from lorax_serve.ipc.types import SamplingParams

V = 128256
NUM_ROWS = (1, 128, 256)
PARAMS = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature": SamplingParams(temperature=0.8),
    "nucleus": SamplingParams(top_p=0.9),
    "top-k": SamplingParams(top_k=40, top_p=0.95),
    "typical": SamplingParams(typical_p=0.9),
    "logprobs": SamplingParams(temperature=0.0, num_logprobs=20),
}


def cases() -> list[Case]:
    return [case(name, num_rows) for name in PARAMS for num_rows in NUM_ROWS]


def case(name: str, num_rows: int) -> Case:
    rows = [SamplingRow(PARAMS[name], (), ())] * num_rows

    def make_call(device: torch.device) -> Call:
        logits = (torch.randn(num_rows, V, device=device) * 3).to(torch.bfloat16)
        return lambda: launch(logits, rows, None)

    num_bytes = 2 * num_rows * V
    return Case(name, {"N": num_rows, "V": V}, num_bytes, 0, rotation(num_bytes, make_call))
