"""Sampling on a GPU never waits for the device, and picks what the CPU picks."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lorax_serve.engine.sampling.rows import MaskRows, SamplingRow
from lorax_serve.engine.sampling.sampler import launch, read, sample
from lorax_serve.ipc.types import SamplingParams

pytestmark = pytest.mark.gpu
VOCAB_SIZE = 128256

PARAMS = [
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.0, num_logprobs=20),
    SamplingParams(temperature=0.8, seed=1),
    SamplingParams(temperature=1.0, seed=2, top_p=0.9, num_logprobs=3),
    SamplingParams(temperature=0.7, seed=3, top_k=40, top_p=0.95),
    SamplingParams(temperature=1.1, seed=4, min_p=0.02, typical_p=0.7),
    SamplingParams(temperature=1.0, seed=5, top_k=500),
    SamplingParams(temperature=0.0, repetition_penalty=1.4, logit_bias=((7, 50.0),)),
    SamplingParams(temperature=0.9, seed=6, frequency_penalty=1.0, presence_penalty=0.5),
]
ROWS = [
    SamplingRow(params, [5, 6, 7], [8, 9, 8], banned_token_ids=(7, 9) if place % 3 else ())
    for place, params in enumerate(PARAMS)
]


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def mask_rows() -> MaskRows:
    bitmask = torch.full((2, VOCAB_SIZE // 32), -1, dtype=torch.int32)
    bitmask[:, : VOCAB_SIZE // 64] = 0
    return MaskRows(torch.tensor([0, 3]), bitmask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_waits_and_the_cpu_agrees(dtype: torch.dtype) -> None:
    logits = (torch.randn(len(ROWS), VOCAB_SIZE) * 3).to(dtype)
    on_device = logits.cuda()
    launch(on_device, ROWS, mask_rows()).to_host()  # compiles kernels, fills the pinned pool
    torch.cuda.synchronize()
    with waiting_is_an_error():
        on_host = launch(on_device, ROWS, mask_rows()).to_host()
    torch.cuda.synchronize()
    got, expected = read(on_host), sample(logits, ROWS, mask_rows())
    assert got.token_ids == expected.token_ids
    assert got.finite == expected.finite
    for ours, theirs in zip(got.logprobs, expected.logprobs, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert [t for t, _ in ours.top] == [t for t, _ in theirs.top]


def test_a_row_draws_the_same_token_in_any_batch() -> None:
    logits = torch.randn(len(ROWS), VOCAB_SIZE, device="cuda") * 3
    together = sample(logits, ROWS, None).token_ids
    alone = [
        sample(logits[i : i + 1], ROWS[i : i + 1], None).token_ids[0] for i in range(len(ROWS))
    ]
    assert list(together) == alone
