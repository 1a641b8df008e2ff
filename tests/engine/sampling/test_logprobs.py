"""Log-probabilities against torch's, and the order of alternatives."""

import math

import pytest
import torch

from lorax_serve.engine.sampling.draws import Asked
from lorax_serve.engine.sampling.logprobs import LOWEST_LOGPROB, LogprobTensors
from lorax_serve.engine.sampling.torch_picker import TorchPicker
from lorax_serve.engine.sampling.upload import Upload
from lorax_serve.ipc.types import TokenLogprob


def raw_logprobs(
    logits: torch.Tensor, token_ids: list[int], counts: list[int]
) -> list[TokenLogprob]:
    upload = Upload()
    asked = Asked(dict(enumerate(counts)), logits.shape[-1], upload)
    upload.send(logits.device)
    logprobs = TorchPicker().logprobs(logits, logits.amax(-1), asked, torch.tensor(token_ids))
    return list(LogprobTensors(asked.counts, *logprobs).to_host().entries().values())


def test_equals_log_softmax_and_sorts_alternatives() -> None:
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    expected = logits.double().log_softmax(-1)
    entries = raw_logprobs(logits, [4, 50, 99], [0, 5, 20])
    for row, chosen, count, entry in zip(expected, [4, 50, 99], [0, 5, 20], entries, strict=True):
        assert entry.logprob == pytest.approx(row[chosen].item(), abs=1e-5)
        top = row.topk(count)
        assert [token_id for token_id, _ in entry.top] == top.indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(top.values.tolist(), abs=1e-5)


def test_equal_tokens_come_by_id_whatever_is_asked_beside() -> None:
    logits = torch.zeros(2, 64)
    logits[:, 40] = 1.0
    both = raw_logprobs(logits, [40, 40], [3, 20])
    alone = raw_logprobs(logits[:1], [40], [3])
    assert [token_id for token_id, _ in both[0].top] == [40, 0, 1]
    assert both[:1] == alone
    assert both[1].top[:3] == both[0].top


def test_everything_is_finite() -> None:
    logits = torch.tensor([[0.0, -math.inf, -1e30, -5.0]])
    (entry,) = raw_logprobs(logits, [1], [4])
    assert entry.logprob == LOWEST_LOGPROB
    assert [token_id for token_id, _ in entry.top] == [0, 3, 1, 2]
    assert all(math.isfinite(value) for _, value in entry.top)
    assert entry.top[-1][1] == LOWEST_LOGPROB


def test_no_more_alternatives_than_tokens() -> None:
    (entry,) = raw_logprobs(torch.tensor([[0.0, 1.0]]), [0], [20])
    assert [token_id for token_id, _ in entry.top] == [1, 0]
