"""Runs a step at once, tensor by tensor: the CPU's way, and the slow twin of the GPU's."""

from dataclasses import dataclass

import torch

from lorax_serve.engine.adapters.slab_memory import TorchSlabs
from lorax_serve.engine.forward_batch import build_forward_batch, row_segments, sampled_segments
from lorax_serve.engine.kv_cache import KVCache
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.sampling.sampler import sample
from lorax_serve.engine.sampling_rows import mask_rows, sampling_rows
from lorax_serve.engine.step import Step, StepOutput
from lorax_serve.kernels.attention_backend import AttentionBackend


class Runner:
    """The model, its KV cache and the adapters' memory, behind one function of a step."""

    overlaps = False

    def __init__(
        self, model: Decoder, kv_cache: KVCache, slabs: TorchSlabs, attention: AttentionBackend
    ) -> None:
        self._model = model
        self._kv_cache = kv_cache
        self._slabs = slabs
        self._attention = attention

    def launch(self, step: Step) -> "ComputedStep":
        return ComputedStep(step, self._logits(step))

    @torch.inference_mode()
    def _logits(self, step: Step) -> torch.Tensor:
        """One forward pass; keys and values are written to the cache. Returns [N, vocab]."""
        batch = build_forward_batch(
            step, block_size=self._kv_cache.block_size, device=self._kv_cache.device
        )
        hidden = self._model.forward(
            batch,
            self._kv_cache,
            self._attention.bind(batch.attention, self._kv_cache.layers[0]),
            self._slabs.delta(row_segments(step)),
        )
        return self._model.logits(
            hidden.index_select(0, batch.sampled_rows), self._slabs.delta(sampled_segments(step))
        )


@dataclass(frozen=True, slots=True)
class ComputedStep:
    """A step whose logits are here."""

    step: Step
    logits: torch.Tensor  # [N, vocab]

    @torch.inference_mode()
    def sample(self) -> "PickedStep":
        items = self.step.sampling
        mask = mask_rows(items, self.logits.shape[-1])
        sampled = sample(self.logits, sampling_rows(items), mask)
        output = StepOutput(sampled.token_ids, sampled.logprobs, sampled.finite)
        return PickedStep(self.step, output)


@dataclass(frozen=True, slots=True)
class PickedStep:
    """A step whose tokens are here."""

    step: Step
    picked: StepOutput

    def output(self) -> StepOutput:
        return self.picked
