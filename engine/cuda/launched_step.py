"""A step on a GPU between its launch and what came of it. Nothing here waits but `output`."""

from dataclasses import dataclass
from typing import Protocol

import torch

from lorax_serve.engine.prompt_rows import PromptRows
from lorax_serve.engine.prompt_scores import PromptScores
from lorax_serve.engine.sampling.prompt_logprobs import read_scores
from lorax_serve.engine.sampling.sampler import SampledTensors, launch, read
from lorax_serve.engine.sampling_rows import mask_rows, sampling_rows
from lorax_serve.engine.step import Step, StepOutput


@dataclass(frozen=True, slots=True)
class StepResults:
    """All that the host is told of a step."""

    sampled: SampledTensors
    scores: PromptScores
    rows: PromptRows

    def to_host(self) -> "StepResults":
        """Start copying to pinned memory on the current stream. To be read when that is done."""
        return StepResults(
            self.sampled.to_host(),
            tuple(tuple(rows.to_host() for rows in each) for each in self.scores),
            self.rows.to_host(),
        )

    def read(self, step: Step) -> StepOutput:
        sampled = read(self.sampled)
        return StepOutput(
            sampled.token_ids,
            sampled.logprobs,
            sampled.finite,
            tuple(map(read_scores, self.scores)),
            self.rows.read(step),
        )


class _Runner(Protocol):
    """What a step needs of the runner that launched it."""

    def keep(self, step: Step, token_ids: torch.Tensor) -> None:
        """Leave the sampled ids [N] where the next step finds them."""

    def fetch(self, results: StepResults) -> tuple[StepResults, torch.cuda.Event]:
        """Start copying results to the host; the event says when that is done."""


@dataclass(frozen=True, slots=True)
class CudaStep:
    """A step on the device."""

    runner: _Runner
    step: Step
    logits: torch.Tensor  # [N, vocab]
    scores: PromptScores
    rows: PromptRows

    @torch.inference_mode()
    def sample(self) -> "CudaSampledStep":
        """Enqueue sampling and the copy of its results."""
        items = self.step.sampling
        mask = mask_rows(items, self.logits.shape[-1])
        sampled = launch(self.logits, sampling_rows(items), mask)
        self.runner.keep(self.step, sampled.token_ids)
        on_device = StepResults(sampled, self.scores, self.rows)
        return CudaSampledStep(self.step, on_device, *self.runner.fetch(on_device))


@dataclass(frozen=True, slots=True)
class CudaSampledStep:
    """A step whose results are on their way to the host."""

    step: Step
    on_device: StepResults  # kept until copied
    on_host: StepResults
    copied: torch.cuda.Event

    def output(self) -> StepOutput:
        self.copied.synchronize()
        return self.on_host.read(self.step)
