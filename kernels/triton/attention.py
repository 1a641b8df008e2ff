"""Attention over the paged cache on a GPU, decodes and prompt chunks in one step."""

from dataclasses import dataclass

import torch

from lorax_serve.kernels.attention_batch import AttentionBatch
from lorax_serve.kernels.triton.attention_decode import decode_attention, split_count
from lorax_serve.kernels.triton.attention_prefill import prefill_attention


@dataclass(frozen=True, slots=True)
class TritonAttention:
    """An AttentionBackend for blocks of any power of two and any head size up to 128.

    Launches depend on sizes alone, never on the values of a tensor: they may be captured.
    """

    num_sms: int  # multiprocessors of the device

    def bind(self, batch: AttentionBatch, cache: torch.Tensor) -> "TritonStepAttention":
        return TritonStepAttention(batch, self.num_sms)


@dataclass(frozen=True, slots=True)
class TritonStepAttention:
    batch: AttentionBatch
    num_sms: int

    def __call__(
        self, q: torch.Tensor, cache: torch.Tensor, *, scale: float, sliding_window: int | None
    ) -> torch.Tensor:
        batch = self.batch
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if batch.num_decodes > 0:
            decode_attention(
                q,
                cache,
                batch.block_tables,
                batch.context_lens,
                out,
                num_sequences=batch.num_decodes,
                scale=scale,
                sliding_window=sliding_window,
                num_splits=self._num_splits(cache, sliding_window),
            )
        if batch.num_decodes < batch.context_lens.shape[0]:
            prefill_attention(
                q,
                cache,
                batch.block_tables,
                batch.query_indptr,
                batch.context_lens,
                out,
                first_sequence=batch.num_decodes,
                max_query_len=batch.max_query_len,
                scale=scale,
                sliding_window=sliding_window,
                num_sms=self.num_sms,
            )
        return out

    def _num_splits(self, cache: torch.Tensor, sliding_window: int | None) -> int:
        """By the room of the tables: the lengths a captured launch will meet are not known."""
        max_keys = self.batch.block_tables.shape[1] * cache.shape[1]
        if sliding_window is not None:
            max_keys = min(max_keys, sliding_window)
        return split_count(self.batch.num_decodes, cache.shape[3], max_keys, self.num_sms)
