"""Log-probabilities a client sees: those of the model, before anything a request changes."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lorax_serve.engine.sampling.ranking import ID_BITS, rank_keys
from lorax_serve.ipc.types import TokenLogprob

LOWEST_LOGPROB = -9999.0  # stands for -inf, which JSON cannot say


@dataclass(frozen=True, slots=True)
class LogprobTensors:
    """M rows' log-probabilities, still on their way."""

    counts: Mapping[int, int]  # row of the step -> alternatives it asked for; M entries
    chosen: Tensor  # [M] float32
    token_ids: Tensor  # [M, K] int64, most likely first
    values: Tensor  # [M, K] float32

    def to_host(self) -> "LogprobTensors":
        """Start copying to pinned memory on the current stream."""
        return LogprobTensors(
            self.counts,
            self.chosen.to("cpu", non_blocking=True),
            self.token_ids.to("cpu", non_blocking=True),
            self.values.to("cpu", non_blocking=True),
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


def launch_logprobs(logits: Tensor, token_ids: Tensor, counts: Mapping[int, int]) -> LogprobTensors:
    """Enqueue the chosen tokens' log-probabilities and the most likely tokens'.

    logits: [M, V] float32, untouched; token_ids: [M] int64; `counts` has M entries, how many of the
    most likely tokens a row gets, at most V; equally likely ones come by token id. Never waits for
    the device.
    """
    logprobs = logits.log_softmax(-1).clamp_(min=LOWEST_LOGPROB)
    chosen = logprobs.gather(1, token_ids.unsqueeze(-1)).squeeze(-1)
    width = min(max(counts.values()), logits.shape[-1])
    if width == 0:
        return LogprobTensors(counts, chosen, token_ids.new_empty(len(logits), 0), logprobs[:, :0])
    keys = rank_keys(logprobs.abs())
    most_likely = keys.topk(width, largest=False).values & ID_BITS
    return LogprobTensors(counts, chosen, most_likely, logprobs.gather(1, most_likely))
