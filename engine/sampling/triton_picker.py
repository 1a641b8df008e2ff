"""The GPU's way to pick tokens. Imports Triton."""

import torch
from torch import Tensor

from lorax_serve.engine.sampling.draws import Asked, Draws
from lorax_serve.engine.sampling.logprobs import LOWEST_LOGPROB
from lorax_serve.kernels.triton.sampling_draw import draw_whole
from lorax_serve.kernels.triton.sampling_filters import draw_filtered
from lorax_serve.kernels.triton.sampling_highest import highest
from lorax_serve.kernels.triton.sampling_logprobs import logprobs


class TritonPicker:
    """A Picker."""

    def highest(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return highest(logits)

    def draw(self, logits: Tensor, maxima: Tensor, draws: Draws) -> Tensor:
        settings, num_whole = draws.settings.tensor, draws.num_whole
        out = torch.empty(len(settings), dtype=torch.int64, device=logits.device)
        if num_whole > 0:
            draw_whole(logits, maxima, settings[:num_whole], out[:num_whole])
        if num_whole < len(settings):
            draw_filtered(logits, maxima, settings[num_whole:], out[num_whole:])
        return out

    def logprobs(
        self, logits: Tensor, maxima: Tensor, asked: Asked, token_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        chosen, top_ids, top = logprobs(
            logits, maxima, asked.settings.tensor, token_ids, asked.num_top
        )
        return chosen.clamp_(min=LOWEST_LOGPROB), top_ids, top.clamp_(min=LOWEST_LOGPROB)
