"""The sampling kernels against their torch twin: arg-max, draws through every filter, logprobs."""

import math
from collections.abc import Sequence

import msgspec
import pytest
import torch

from devices import DEVICES
from lorax_serve.engine.sampling.filters import filter_scores_, scale_
from lorax_serve.engine.sampling.picker import Picker
from lorax_serve.engine.sampling.rows import MaskRows, SamplingRow
from lorax_serve.engine.sampling.sampler import Sampled, launch_with, read
from lorax_serve.engine.sampling.torch_picker import TorchPicker
from lorax_serve.engine.sampling.triton_picker import TritonPicker
from lorax_serve.engine.sampling.uniform import uniforms
from lorax_serve.ipc.types import SamplingParams
from lorax_serve.kernels.triton.sampling_highest import highest
from sampling_cases import masks, row

CPU = torch.device("cpu")
EDGE = 5e-5  # float32 sums over a large vocabulary, and one token of a nucleus's boundary
# The interpreter's arithmetic is numpy's, which speaks up where a GPU quietly rounds to infinity.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning"),
]
# One run of tokens, several, and sizes that nothing divides.
VOCAB_SIZES = [
    pytest.param(device.values[0], size, id=f"{device.id}-{size}", marks=device.marks)
    for device, sizes in zip(DEVICES, [(1003, 4099), (1003, 50257, 128256)], strict=True)
    for size in sizes
]
FILTERS = [
    {},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 600},
    {"top_p": 0.05},
    {"top_p": 0.93},
    {"top_p": 0.9995},
    {"min_p": 0.07},
    {"typical_p": 0.21},
    {"typical_p": 0.9},
    {"top_k": 40, "top_p": 0.83},
    {"temperature": 1.7, "top_k": 300, "top_p": 0.97, "min_p": 0.011, "typical_p": 0.77},
]


def random_logits(num_rows: int, vocab_size: int, *, ties: bool, seed: int = 0) -> torch.Tensor:
    """[M, V] float32 on the CPU, every fifth -inf; with few distinct values if `ties`."""
    generator = torch.Generator().manual_seed(seed + vocab_size)
    logits = torch.randn(num_rows, vocab_size, generator=generator) * 3
    logits[:, ::5] = -math.inf
    return (logits * 2).round() / 2 if ties else logits


def picked(
    picker: Picker,
    logits: torch.Tensor,
    rows: Sequence[SamplingRow],
    mask: MaskRows | None = None,
) -> Sampled:
    return read(launch_with(picker, logits, rows, mask))


def rows_of(changes: Sequence[dict[str, float]], num_seeds: int = 1) -> list[SamplingRow]:
    return [
        row(msgspec.structs.replace(SamplingParams(seed=seed), **change), [1, 2], [3] * seed)
        for change in changes
        for seed in range(num_seeds)
    ]


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("device", "vocab_size"), VOCAB_SIZES)
def test_highest_is_the_first_highest(device: torch.device, vocab_size: int, ties: bool) -> None:
    logits = random_logits(7, vocab_size, ties=ties)
    logits[1] = -0.0
    logits[1, vocab_size // 3] = 0.0
    logits[2, vocab_size // 2 :] = math.nan
    logits[3, -1] = math.inf
    logits[4] = -math.inf
    logits[5] = -logits[5].abs() - 1
    dtypes = [torch.float32, torch.float16] + [torch.bfloat16] * (device.type == "cuda")
    for dtype in dtypes:
        of_dtype = logits.to(dtype)
        token_ids, maxima, finite = (got.cpu() for got in highest(of_dtype.to(device)))
        usable = [True, True, False, False, False, True, True]
        assert finite.tolist() == usable
        expected = of_dtype.argmax(-1).masked_fill(~finite, 0)
        assert torch.equal(token_ids, expected)
        assert torch.equal(maxima.nan_to_num(7.5), of_dtype.float().amax(-1).nan_to_num(7.5))


def test_highest_of_no_rows_and_of_a_slice() -> None:
    assert highest(torch.zeros(0, 100))[0].tolist() == []
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(highest(logits[:, :512])[0], logits[:, :512].argmax(-1))


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("device", "vocab_size"), VOCAB_SIZES)
def test_draws_are_those_of_the_torch_twin(
    device: torch.device, vocab_size: int, ties: bool
) -> None:
    rows = rows_of(FILTERS, 1 if device == CPU else 8)
    logits = random_logits(len(rows), vocab_size, ties=ties)
    expected = picked(TorchPicker(), logits, rows)
    got = picked(TritonPicker(), logits.to(device), rows)
    if vocab_size < 10_000:
        assert got == expected
    # Among more tokens, some random number lies within a rounding error of a token's edge.
    for token_id, twins, row_logits, each in zip(
        got.token_ids, expected.token_ids, logits, rows, strict=True
    ):
        assert token_id == twins or is_at_an_edge(token_id, row_logits, each)


def is_at_an_edge(token_id: int, logits: torch.Tensor, row: SamplingRow) -> bool:
    """Whether the row's random number points at the token within EDGE of all mass."""
    scores = logits.unsqueeze(0).clone()
    scale_(scores, scores.amax(-1), [row.params])
    filter_scores_(scores, [row.params])
    running = scores.double().softmax(-1).cumsum(-1)[0]
    (number,) = uniforms([row.params.seed], [len(row.output_token_ids)])
    before = float(running[token_id - 1]) if token_id > 0 else 0.0
    return before - EDGE <= number <= float(running[token_id]) + EDGE


@pytest.mark.parametrize("change", FILTERS[1:], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_draws_from_a_short_row_of_ties(device: torch.device, change: dict[str, float]) -> None:
    """One token more or less of a row as flat as this shifts most draws."""
    logits = torch.tensor([0.0, 0.5, 0.25, 0.5, 0.0, 0.25, 0.5, 0.125, 0.125, 0.0]).repeat(2)
    rows = rows_of([change], 2 if device == CPU else 150)
    many = logits.expand(len(rows), -1).contiguous()
    expected = picked(TorchPicker(), many, rows)
    assert picked(TritonPicker(), many.to(device), rows) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_is_the_same_in_any_batch(device: torch.device) -> None:
    changes = [*FILTERS, {"temperature": 0.0}, {"repetition_penalty": 1.3}]
    rows = rows_of([{**change, "num_logprobs": 3} for change in changes])
    logits = random_logits(len(rows), 1003, ties=False).to(device)
    together = picked(TritonPicker(), logits, rows)
    for i in (0, 4, 12, 13, 14):
        alone = picked(TritonPicker(), logits[i : i + 1].clone(), rows[i : i + 1])
        assert alone.token_ids[0] == together.token_ids[i]
        assert alone.logprobs[0] == together.logprobs[i]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("device", DEVICES)
def test_bad_rows_fail_alone(device: torch.device, bad: float) -> None:
    changes = [FILTERS[0], FILTERS[-1], {"temperature": 0.0}]
    rows = rows_of([{**change, "num_logprobs": 2} for change in changes], 2)
    logits = random_logits(len(rows), 300, ties=False)
    clean = picked(TritonPicker(), logits.to(device), rows)
    logits[::2] = bad
    sampled = picked(TritonPicker(), logits.to(device), rows)
    assert sampled.finite[::2] == (False,) * 3
    assert sampled.token_ids[::2] == (0,) * 3
    for field in ("token_ids", "logprobs", "finite"):
        assert getattr(sampled, field)[1::2] == getattr(clean, field)[1::2]


@pytest.mark.parametrize("device", DEVICES)
def test_masks_penalties_and_biases_come_first(device: torch.device) -> None:
    changes = [
        {"temperature": 0.0, "logit_bias": ((900, 50.0),)},
        {"repetition_penalty": 3.0, "top_p": 0.6},
        {"frequency_penalty": 1.5, "typical_p": 0.6},
        {"temperature": 0.0},
        {"top_k": 3},
        {},
    ]
    rows = rows_of(changes, 2)
    logits = random_logits(len(rows), 1000, ties=True)
    mask = masks({9: [6, 7, 8, 9, 999], 6: [41, 42], 2: [3]}, 1000)
    expected = picked(TorchPicker(), logits, rows, mask)
    assert picked(TritonPicker(), logits.to(device), rows, mask) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 1e-8},
        {"temperature": 5e-324},
        {"temperature": 100.0, "top_p": 1e-9},
        {"temperature": 100.0, "top_k": 1},
        {"temperature": 100.0, "min_p": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("device", DEVICES)
def test_extremes_that_amount_to_greedy(device: torch.device, change: dict[str, float]) -> None:
    logits = random_logits(4, 300, ties=False)
    logits[1] *= 1e37
    logits[2, 7:] = -math.inf
    sampled = picked(TritonPicker(), logits.to(device), rows_of([change], 4))
    assert list(sampled.token_ids) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_the_loosest_filters_remove_nothing(device: torch.device) -> None:
    loosest = {"top_k": 2**31 - 1, "top_p": 1 - 2**-53, "min_p": 1e-300, "typical_p": 1 - 2**-53}
    logits = torch.zeros(10, 3)
    sampled = picked(TritonPicker(), logits.to(device), rows_of([loosest], 10))
    assert set(sampled.token_ids) == set(range(3))


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("device", "vocab_size"), VOCAB_SIZES)
def test_logprobs_are_those_of_the_torch_twin(
    device: torch.device, vocab_size: int, ties: bool
) -> None:
    counts: list[dict[str, float]] = [{"num_logprobs": n} for n in (0, 1, 5, 20)]
    rows = [row(SamplingParams()), *rows_of(counts)]
    logits = random_logits(len(rows), vocab_size, ties=ties)
    expected = picked(TorchPicker(), logits, rows).logprobs
    got = picked(TritonPicker(), logits.to(device), rows).logprobs
    assert got[0] is None is expected[0]
    for ours, theirs in zip(got[1:], expected[1:], strict=True):
        assert ours is not None and theirs is not None
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)
        assert [token_id for token_id, _ in ours.top] == [token_id for token_id, _ in theirs.top]
        values = [value for _, value in theirs.top]
        assert [value for _, value in ours.top] == pytest.approx(values, abs=1e-5)


@pytest.mark.gpu
def test_nothing_waits_for_the_device() -> None:
    changes = [*FILTERS, {"temperature": 0.0}, {"repetition_penalty": 1.3}, {"top_p": 0.5}]
    rows = rows_of([{**change, "num_logprobs": 20} for change in changes])
    logits = random_logits(len(rows), 128256, ties=True).to("cuda", torch.bfloat16)
    mask = masks({0: [3, 4], len(rows) - 1: list(range(1, 2000))}, 128256)
    expected = picked(TritonPicker(), logits, rows, mask)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tensors = launch_with(TritonPicker(), logits, rows, mask).to_host()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert read(tensors) == expected
