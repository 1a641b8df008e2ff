"""Attention over the paged cache by the flash_attn package, which only this module imports.

Legend: B sequences, N prompt chunks among them.
"""

from dataclasses import dataclass

import torch
from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache

from lorax_serve.kernels.attention_batch import AttentionBatch


@dataclass(frozen=True, slots=True)
class FlashAttention:
    """An AttentionBackend for what flash_support.supports."""

    def bind(self, batch: AttentionBatch, cache: torch.Tensor) -> "FlashStepAttention":
        has_prompts = batch.num_decodes < batch.context_lens.shape[0]
        return FlashStepAttention(batch, _Prompts.of(batch) if has_prompts else None)


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Where the rows and keys of the prompt chunks begin, counted from the first chunk's."""

    query_indptr: torch.Tensor  # [N + 1] int32
    key_indptr: torch.Tensor  # [N + 1] int32
    block_tables: torch.Tensor  # [N, P] int32

    @staticmethod
    def of(batch: AttentionBatch) -> "_Prompts":
        first = batch.num_decodes
        # A decode has one row: `first` is also the first chunk's first row.
        query_indptr = batch.query_indptr[first:] - first
        key_indptr = torch.zeros_like(query_indptr)
        torch.cumsum(batch.context_lens[first:], 0, dtype=torch.int32, out=key_indptr[1:])
        return _Prompts(query_indptr, key_indptr, batch.block_tables[first:])


@dataclass(frozen=True, slots=True)
class FlashStepAttention:
    batch: AttentionBatch
    prompts: _Prompts | None

    def __call__(
        self, q: torch.Tensor, cache: torch.Tensor, *, scale: float, sliding_window: int | None
    ) -> torch.Tensor:
        num_decodes = self.batch.num_decodes
        # flash-attention counts the keys before a row's own.
        window = (-1, -1) if sliding_window is None else (sliding_window - 1, 0)
        if self.prompts is None:
            return self._decodes(q, cache, scale, window)
        prompted = self._prompts(q[num_decodes:], cache, self.prompts, scale, window)
        if num_decodes == 0:
            return prompted
        return torch.cat((self._decodes(q[:num_decodes], cache, scale, window), prompted))

    def _decodes(
        self, q: torch.Tensor, cache: torch.Tensor, scale: float, window: tuple[int, int]
    ) -> torch.Tensor:
        num_decodes = self.batch.num_decodes
        out: torch.Tensor = flash_attn_with_kvcache(
            q.unsqueeze(1),
            cache[:, :, 0],
            cache[:, :, 1],
            cache_seqlens=self.batch.context_lens[:num_decodes],
            block_table=self.batch.block_tables[:num_decodes],
            softmax_scale=scale,
            causal=True,
            window_size=window,
        )
        return out.squeeze(1)

    def _prompts(
        self,
        q: torch.Tensor,
        cache: torch.Tensor,
        prompts: _Prompts,
        scale: float,
        window: tuple[int, int],
    ) -> torch.Tensor:
        out: torch.Tensor = flash_attn_varlen_func(
            q,
            cache[:, :, 0],
            cache[:, :, 1],
            cu_seqlens_q=prompts.query_indptr,
            cu_seqlens_k=prompts.key_indptr,
            max_seqlen_q=self.batch.max_query_len,
            max_seqlen_k=self.batch.max_context_len,
            softmax_scale=scale,
            causal=True,
            window_size=window,
            block_table=prompts.block_tables,
        )
        return out
