"""Root-mean-square layer norm on a GPU: the twin of kernels/norm.py, rounding for rounding.

The square mean is taken in float32; a residual sum is rounded to its dtype before it is normalised,
and the normalised value before the weight is applied. A row's result is the same bits whatever
else is in the batch.

Legend: T rows of a step, E features, N heads, D head size.
"""

import torch
import triton
import triton.language as tl

# Features one warp reduces: two 16-byte loads a thread, in flight together, of a 16-bit row.
FEATURES_PER_WARP = 512
MAX_WARPS = 16
HEADS_PER_PROGRAM = 8


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See kernels/norm.py. x [T, E], its rows contiguous; returns a new tensor [T, E]."""
    num_rows, num_features = x.shape
    out = torch.empty((num_rows, num_features), dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(num_features)
    _rms_norm_kernel[(num_rows,)](
        x, weight, out, x.stride(0), eps, num_features, block, num_warps=_num_warps(block)
    )
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """`residual += x` in place, then the norm of the sum, a new tensor.

    x, residual [T, E] contiguous, of one dtype.
    """
    num_rows, num_features = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(num_features)
    _add_rms_norm_kernel[(num_rows,)](
        x, residual, weight, out, eps, num_features, block, num_warps=_num_warps(block)
    )
    return out


def rms_norm_heads_(heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    """Normalise every head of heads [T, N, D] in place; a row's heads contiguous. weight [D]."""
    num_rows, num_heads, head_dim = heads.shape
    block_heads = min(HEADS_PER_PROGRAM, triton.next_power_of_2(num_heads))
    grid = (num_rows, triton.cdiv(num_heads, block_heads))
    block_dim = triton.next_power_of_2(head_dim)
    _rms_norm_heads_kernel[grid](
        heads, weight, heads.stride(0), eps, num_heads, head_dim, block_heads, block_dim
    )


def _num_warps(block: int) -> int:
    return min(MAX_WARPS, max(1, block // FEATURES_PER_WARP))


@triton.jit
def _normalized(
    x, weight, eps, num_features: tl.constexpr, axis: tl.constexpr, dtype: tl.constexpr
):
    """x and weight float32, x zero beyond num_features; returns float32 to be rounded to dtype."""
    mean = tl.sum(x * x, axis=axis, keep_dims=True) / num_features
    rounded = (x * tl.rsqrt(mean + eps)).to(dtype)
    return rounded.to(tl.float32) * weight


@triton.jit
def _rms_norm_kernel(
    x_ptr, weight_ptr, out_ptr, x_stride, eps, num_features: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    features = tl.arange(0, BLOCK)
    mask = features < num_features
    x = tl.load(x_ptr + row * x_stride + features, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + features, mask=mask, other=0.0).to(tl.float32)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    y = _normalized(x, weight, eps, num_features, 0, dtype)
    tl.store(out_ptr + row * num_features + features, y.to(dtype), mask=mask)


@triton.jit
def _add_rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, eps, num_features: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * num_features
    features = tl.arange(0, BLOCK)
    mask = features < num_features
    x = tl.load(x_ptr + row + features, mask=mask, other=0.0).to(tl.float32)
    residual = tl.load(residual_ptr + row + features, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + features, mask=mask, other=0.0).to(tl.float32)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    total = (x + residual).to(dtype)
    tl.store(residual_ptr + row + features, total, mask=mask)
    y = _normalized(total.to(tl.float32), weight, eps, num_features, 0, dtype)
    tl.store(out_ptr + row + features, y.to(dtype), mask=mask)


@triton.jit
def _rms_norm_heads_kernel(
    heads_ptr,
    weight_ptr,
    row_stride,
    eps,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    features = tl.arange(0, BLOCK_DIM)
    mask = (heads < num_heads)[:, None] & (features < head_dim)[None, :]
    pointers = heads_ptr + row * row_stride + heads[:, None] * head_dim + features[None, :]
    x = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + features, mask=features < head_dim, other=0.0).to(tl.float32)
    dtype: tl.constexpr = heads_ptr.dtype.element_ty
    y = _normalized(x, weight[None, :], eps, head_dim, 1, dtype)
    tl.store(pointers, y.to(dtype), mask=mask)
