"""Runs a step at once, tensor by tensor: the CPU's way, and the slow twin of the GPU's."""

from dataclasses import dataclass

import torch

from lorax_serve.engine.adapters.slab_memory import TorchSlabs
from lorax_serve.engine.forward_batch import build_forward_batch, row_segments, sampled_segments
from lorax_serve.engine.kv_cache import KVCache
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.prompt_rows import PromptRows, prompt_rows
from lorax_serve.engine.prompt_scores import PromptScores, score_prompts
from lorax_serve.engine.sampling.prompt_logprobs import read_scores
from lorax_serve.engine.sampling.sampler import sample
from lorax_serve.engine.sampling_rows import mask_rows, sampling_rows
from lorax_serve.engine.step import Step, StepOutput
from lorax_serve.kernels.attention_backend import AttentionBackend
from lorax_serve.kernels.lora import Segments


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
        return self._computed(step)

    @torch.inference_mode()
    def _computed(self, step: Step) -> "ComputedStep":
        """One forward pass; keys and values are written to the cache."""
        batch = build_forward_batch(
            step, block_size=self._kv_cache.block_size, device=self._kv_cache.device
        )
        hidden = self._model.forward(
            batch,
            self._kv_cache,
            self._attention.bind(batch.attention, self._kv_cache.layers[0]),
            self._slabs.delta(row_segments(step)),
        )
        logits = self._logits(hidden.index_select(0, batch.sampled_rows), sampled_segments(step))
        vocab_size = self._model.config.vocab_size
        scores = score_prompts(step, hidden, vocab_size=vocab_size, logits_of=self._logits)
        rows = prompt_rows(step, hidden, self._slabs.label_head)
        return ComputedStep(step, logits, scores, rows)

    def _logits(self, hidden: torch.Tensor, segments: Segments) -> torch.Tensor:
        """[N, E] -> [N, vocab]."""
        return self._model.logits(hidden, self._slabs.delta(segments))


@dataclass(frozen=True, slots=True)
class ComputedStep:
    """A step whose logits are here."""

    step: Step
    logits: torch.Tensor  # [N, vocab]
    scores: PromptScores
    rows: PromptRows

    @torch.inference_mode()
    def sample(self) -> "PickedStep":
        items = self.step.sampling
        mask = mask_rows(items, self.logits.shape[-1])
        sampled = sample(self.logits, sampling_rows(items), mask)
        prompt_logprobs = tuple(map(read_scores, self.scores))
        output = StepOutput(
            sampled.token_ids,
            sampled.logprobs,
            sampled.finite,
            prompt_logprobs,
            self.rows.read(self.step),
        )
        return PickedStep(self.step, output)


@dataclass(frozen=True, slots=True)
class PickedStep:
    """A step whose tokens are here."""

    step: Step
    picked: StepOutput

    def output(self) -> StepOutput:
        return self.picked
