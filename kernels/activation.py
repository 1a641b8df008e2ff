"""The gated activation of the Llama family, plain torch."""

import torch


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up` with `silu(z) = z * sigmoid(z)` (SwiGLU, arXiv 2002.05202).

    gate_up [T, 2I]: gate in the first I columns, up in the last; returns a new tensor [T, I].
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate).mul_(up)
