"""The work on whole rows of logits, which every kind of device does its own way.

Legend: N rows of logits, V vocabulary, M rows drawn or asked about, K alternatives.
"""

from typing import Protocol

import torch
from torch import Tensor

from lorax_serve.engine.sampling.draws import Asked, Draws
from lorax_serve.engine.sampling.torch_picker import TorchPicker


class Picker(Protocol):
    """Enqueues; never waits. Logits are [N, V] of a floating type and stay as they are.

    A row's result depends on nothing but the row. `maxima` are what `highest` says of the logits;
    where they are not finite, what else is picked means nothing.
    """

    def highest(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's first highest logit: token ids [N] int64, its value [N] float32, whether that
        is finite [N] bool. NaN counts as highest. The id is 0 where it is not finite.
        """
        ...

    def draw(self, logits: Tensor, maxima: Tensor, draws: Draws) -> Tensor:
        """Token ids [M] int64."""
        ...

    def logprobs(
        self, logits: Tensor, maxima: Tensor, asked: Asked, token_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of token_ids [M] int64: [M] float32; the most likely ids [M, K] int64, equally likely
        ones by id; theirs [M, K] float32. None is below LOWEST_LOGPROB, and those that would be
        come in any order.
        """
        ...


def picker_of(device: torch.device) -> Picker:
    if device.type == "cuda":
        # A process without a GPU never imports Triton.
        from lorax_serve.engine.sampling.triton_picker import TritonPicker

        return TritonPicker()
    return TorchPicker()
