"""Log-probabilities a client sees: those of the model, before anything a request changes."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lorax_serve.engine.sampling.upload import to_pinned
from lorax_serve.ipc.types import TokenLogprob

LOWEST_LOGPROB = -9999.0  # stands for -inf, which JSON cannot say


@dataclass(frozen=True, slots=True)
class LogprobTensors:
    """M rows' log-probabilities, still on their way."""

    counts: Mapping[int, int]  # row of the step -> alternatives it asked for; M entries
    chosen: Tensor  # [M] float32
    token_ids: Tensor  # [M, K] int64, most likely first, equally likely ones by id
    values: Tensor  # [M, K] float32

    def to_host(self) -> "LogprobTensors":
        """Start copying to pinned memory on the current stream."""
        return LogprobTensors(
            self.counts,
            to_pinned(self.chosen),
            to_pinned(self.token_ids),
            to_pinned(self.values),
        )

    def entries(self) -> dict[int, TokenLogprob]:
        """By row of the step. Waits for tensors that are not on the host."""
        alternatives = zip(self.token_ids.tolist(), self.values.tolist(), strict=True)
        return {
            row: TokenLogprob(chosen, tuple(zip(ids[:count], values[:count], strict=True)))
            for (row, count), chosen, (ids, values) in zip(
                self.counts.items(), self.chosen.tolist(), alternatives, strict=True
            )
        }
