"""How a step's rows find their keys and values.

Legend: T rows of a step, B sequences, P blocks per table.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    slot_mapping: torch.Tensor  # [T] int64: block * block_size + offset where row t is written
    block_tables: torch.Tensor  # [B, P] int32, zero-padded
    query_indptr: torch.Tensor  # [B + 1] int32: sequence b owns rows indptr[b]:indptr[b + 1]
    context_lens: torch.Tensor  # [B] int32: keys visible to the sequence's last row
    num_decodes: int  # the first sequences, each exactly one row
    max_query_len: int
    max_context_len: int
