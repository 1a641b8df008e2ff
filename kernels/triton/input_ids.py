"""The ids of a step's rows, of which some are still on their way to the host."""

import torch
import triton
import triton.language as tl


@triton.jit
def _resolve_kernel(ids_ptr, sources_ptr, sampled_ptr, out_ptr, num_rows, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_range = rows < num_rows
    sources = tl.load(sources_ptr + rows, mask=in_range, other=-1)
    known = tl.load(ids_ptr + rows, mask=in_range, other=0)
    pending = tl.load(sampled_ptr + sources, mask=in_range & (sources >= 0), other=0)
    tl.store(out_ptr + rows, tl.where(sources >= 0, pending, known), mask=in_range)


def resolve_input_ids(
    input_ids: torch.Tensor, sources: torch.Tensor, sampled: torch.Tensor
) -> torch.Tensor:
    """`sampled[sources[t]]` where sources[t] is 0 or more, else `input_ids[t]`.

    input_ids, sources [T] int32; sampled [N] int32; returns a new tensor [T] int32.
    """
    out = torch.empty_like(input_ids)
    block = 1024
    _resolve_kernel[(triton.cdiv(len(input_ids), block),)](
        input_ids, sources, sampled, out, len(input_ids), BLOCK=block
    )
    return out
