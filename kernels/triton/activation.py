"""The gated activation on a GPU: the twin of kernels/activation.py, rounding for rounding.

Legend: T rows of a step, I intermediate features.
"""

import torch
import triton
import triton.language as tl

BLOCK = 2048  # features of one program: two 16-byte loads a thread for gate and for up
NUM_WARPS = 4


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up`, silu rounded to the dtype before the product.

    gate_up [T, 2I] contiguous: gate in the first I columns, up in the last; returns a new tensor
    [T, I].
    """
    num_rows, num_features = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_rows, num_features), dtype=gate_up.dtype, device=gate_up.device)
    grid = (num_rows, triton.cdiv(num_features, BLOCK))
    _silu_mul_kernel[grid](gate_up, out, num_features, BLOCK, num_warps=NUM_WARPS)
    return out


@triton.jit
def _silu_mul_kernel(gate_up_ptr, out_ptr, num_features: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    features = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = features < num_features
    gate_ptr = gate_up_ptr + row * (2 * num_features)
    gate = tl.load(gate_ptr + features, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_ptr + num_features + features, mask=mask, other=0.0).to(tl.float32)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    silu = (gate / (1.0 + tl.exp(-gate))).to(dtype)
    product = silu.to(tl.float32) * up
    tl.store(out_ptr + row * num_features + features, product.to(dtype), mask=mask)
