"""The plain torch way to pick tokens: the CPU's, and the slow twin of the GPU's kernels."""

from torch import Tensor

from lorax_serve.engine.sampling.draws import UNIFORM, Asked, Draws
from lorax_serve.engine.sampling.filters import filter_scores_, scale_
from lorax_serve.engine.sampling.logprobs import LOWEST_LOGPROB
from lorax_serve.engine.sampling.ranking import ID_BITS, rank_keys
from lorax_serve.engine.sampling.selection import draw, highest


class TorchPicker:
    """A Picker. It waits for a GPU, if that is where the logits are."""

    def highest(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        token_ids, maxima = highest(logits)
        maxima = maxima.float()
        finite = maxima.isfinite()
        return token_ids.masked_fill_(~finite, 0), maxima, finite

    def draw(self, logits: Tensor, maxima: Tensor, draws: Draws) -> Tensor:
        index = draws.index.tensor
        scores = logits.index_select(0, index).float()
        scale_(scores, maxima.index_select(0, index), draws.params)
        filter_scores_(scores, draws.params)
        return draw(scores, draws.settings.tensor[:, UNIFORM])

    def logprobs(
        self, logits: Tensor, maxima: Tensor, asked: Asked, token_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logprobs = logits.index_select(0, asked.index.tensor).float().log_softmax(-1)
        logprobs.clamp_(min=LOWEST_LOGPROB)
        chosen = logprobs.gather(1, token_ids.unsqueeze(-1)).squeeze(-1)
        keys = rank_keys(logprobs.abs())
        top_ids = keys.topk(asked.num_top, largest=False).values & ID_BITS
        return chosen, top_ids, logprobs.gather(1, top_ids)
