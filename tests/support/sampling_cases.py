"""Sampling settings, rows and masks for tests, and transformers' word on what they mean."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec
import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from lorax_serve.engine.sampling.rows import MaskRows, SamplingRow
from lorax_serve.ipc.types import SamplingParams

CLOSE_CALL = 1e-5


def row(
    params: SamplingParams, prompt: Sequence[int] = (), output: Sequence[int] = ()
) -> SamplingRow:
    return SamplingRow(params, prompt, output)


def masks(allowed: dict[int, Sequence[int]], vocab_size: int) -> MaskRows:
    """A mask for each row named, allowing just the tokens given."""
    bits = torch.zeros(len(allowed), (vocab_size + 31) // 32 * 32, dtype=torch.int64)
    for place, token_ids in enumerate(allowed.values()):
        bits[place, list(token_ids)] = 1
    words = (bits.view(len(allowed), -1, 32) << torch.arange(32)).sum(-1)
    return MaskRows(torch.tensor(list(allowed)), words.to(torch.int32))


def distinct_logits(max_size: int = 60) -> st.SearchStrategy[list[float]]:
    """Rows without ties, so that there is one right answer."""
    steps = st.lists(st.integers(-200, 200), unique=True, min_size=2, max_size=max_size)
    return steps.map(lambda row: [step / 16 for step in row])


def tied_logits(max_size: int = 60) -> st.SearchStrategy[list[float]]:
    return st.lists(st.sampled_from([-3.5, -1.0, 0.0, 0.25, 2.0]), min_size=2, max_size=max_size)


def fractions() -> st.SearchStrategy[float]:
    """Strictly between 0 and 1."""
    return st.floats(0.001, 0.999)


@st.composite
def drawn_params(draw: st.DrawFn) -> SamplingParams:
    """Any mix of filters, each off half of the time, at a temperature above 0."""

    def sometimes(strategy: st.SearchStrategy[float], off: float) -> float:
        return draw(st.one_of(st.just(off), strategy))

    return SamplingParams(
        temperature=draw(st.floats(0.05, 10)),
        top_k=int(sometimes(st.integers(1, 80).map(float), 0)),
        top_p=sometimes(fractions(), 1.0),
        min_p=sometimes(fractions(), 0.0),
        typical_p=sometimes(fractions(), 1.0),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def any_row(draw: st.DrawFn, vocab_size: int) -> SamplingRow:
    """Everything a request can ask of the sampler, at once."""
    token_ids = st.lists(st.integers(0, vocab_size - 1), max_size=12)
    penalty = st.sampled_from([0.0, 0.0, -1.5, 0.7, 2.0])
    bias = st.tuples(st.integers(0, vocab_size - 1), st.floats(-100, 100))
    params = msgspec.structs.replace(
        draw(drawn_params()),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 0.5, 1.3])),
        frequency_penalty=draw(penalty),
        presence_penalty=draw(penalty),
        logit_bias=tuple(draw(st.lists(bias, max_size=3))),
        num_logprobs=draw(st.sampled_from([None, None, 0, 1, 5, 20])),
    )
    if draw(st.booleans()):
        params = msgspec.structs.replace(params, temperature=0.0)
    banned = draw(st.sets(st.integers(0, vocab_size - 1), max_size=3))
    return SamplingRow(params, draw(token_ids), draw(token_ids), tuple(banned))


def transformers_scores(
    logits: Tensor, params: SamplingParams, prompt_and_output: Sequence[int] = ()
) -> Tensor:
    """What transformers' processors, in float64 and in our order, make of one row [V]."""
    processors: list[Callable[..., Tensor]] = []
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    processors.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k > 0:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0:
        processors.append(MinPLogitsWarper(params.min_p))
    if params.typical_p < 1:
        processors.append(TypicalLogitsWarper(params.typical_p))
    input_ids = torch.tensor([list(prompt_and_output)], dtype=torch.int64)
    scores = logits.to(torch.float64).unsqueeze(0)
    for process in processors:
        scores = process(input_ids, scores)
    return scores[0]


def nudged(params: SamplingParams) -> Iterator[SamplingParams]:
    """The same settings with each threshold a hair lower and higher, in every combination.

    Where transformers' answer differs between these, the case is a close call that rounding may
    decide either way.
    """
    names = [
        name
        for name, off in (("top_p", 1.0), ("min_p", 0.0), ("typical_p", 1.0))
        if getattr(params, name) != off
    ]
    for signs in itertools.product((-CLOSE_CALL, CLOSE_CALL), repeat=len(names)):
        changes = {
            name: getattr(params, name) * (1 + sign)
            for name, sign in zip(names, signs, strict=True)
        }
        yield msgspec.structs.replace(params, **changes)
