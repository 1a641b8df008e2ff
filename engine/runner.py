"""Runs a step on the device: tensors in, forward, mask, sample. Decides nothing."""

import torch

from lorax_serve.engine.adapters.device_pool import AdapterPool
from lorax_serve.engine.forward_batch import build_forward_batch, row_segments, sampled_segments
from lorax_serve.engine.kv_cache import KVCache
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.sampling.sampler import MaskRows, SamplingRow, sample
from lorax_serve.engine.step import ScheduledSequence, Step, StepOutput
from lorax_serve.grammar.mask import allocate_bitmask


class Runner:
    """The model, its KV cache and the adapter pool, behind one function of a step."""

    def __init__(self, model: Decoder, kv_cache: KVCache, pool: AdapterPool) -> None:
        self._model = model
        self._kv_cache = kv_cache
        self._pool = pool

    @torch.inference_mode()
    def run(self, step: Step) -> StepOutput:
        """One forward pass over the step; its keys and values are written to the cache."""
        batch = build_forward_batch(
            step, block_size=self._kv_cache.block_size, device=self._kv_cache.device
        )
        hidden = self._model.forward(batch, self._kv_cache, self._pool.delta(row_segments(step)))
        items = step.sampling
        if not items:
            return StepOutput(token_ids=(), logprobs=(), finite=())
        logits = self._model.logits(
            hidden.index_select(0, batch.sampled_rows), self._pool.delta(sampled_segments(step))
        )
        sampled = sample(logits, [_sampling_row(item) for item in items], self._mask_rows(items))
        return StepOutput(sampled.token_ids, sampled.logprobs, sampled.finite)

    def _mask_rows(self, items: tuple[ScheduledSequence, ...]) -> MaskRows | None:
        """The grammar masks of constrained rows; None when there are none."""
        guides = [
            (row, item.sequence.guide) for row, item in enumerate(items) if item.sequence.guide
        ]
        if not guides:
            return None
        bitmask = allocate_bitmask(len(guides), self._model.config.vocab_size)
        for mask_row, (_, guide) in enumerate(guides):
            guide.fill_mask(bitmask[mask_row].numpy())
        device = self._kv_cache.device
        rows = torch.tensor([row for row, _ in guides], dtype=torch.int64, device=device)
        return MaskRows(rows=rows, bitmask=bitmask.to(device))


def _sampling_row(item: ScheduledSequence) -> SamplingRow:
    sequence = item.sequence
    return SamplingRow(
        params=sequence.sampling,
        prompt_token_ids=sequence.prompt_token_ids,
        output_token_ids=sequence.output_token_ids,
    )
