"""Repetition against transformers, occurrence and bias against their formulas."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from lorax_serve.engine.sampling.penalties import Penalties, check_bias
from lorax_serve.engine.sampling.rows import SamplingRow
from lorax_serve.engine.sampling.upload import Upload
from lorax_serve.ipc.types import SamplingParams
from sampling_cases import row

VOCAB = 24
ids = st.lists(st.integers(0, VOCAB - 1), max_size=20)


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 4


def adjust_(logits: torch.Tensor, rows: list[SamplingRow]) -> None:
    upload = Upload()
    penalties = Penalties(rows, upload)
    upload.send(logits.device)
    penalties.apply_(logits)


@given(ids, ids, st.floats(0.01, 100))
@settings(derandomize=True)
def test_repetition_equals_transformers_bit_for_bit(
    prompt: list[int], output: list[int], penalty: float
) -> None:
    logits = random_logits(1)
    logits[0, 3] = -torch.inf
    expected = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([prompt + output], dtype=torch.int64), logits
    )
    adjust_(logits, [row(SamplingParams(repetition_penalty=penalty), prompt, output)])
    assert torch.equal(logits, expected)


@given(ids, ids, st.floats(-2, 2), st.floats(-2, 2))
@settings(derandomize=True)
def test_occurrence_follows_the_formula_over_the_output_only(
    prompt: list[int], output: list[int], frequency: float, presence: float
) -> None:
    params = SamplingParams(frequency_penalty=frequency, presence_penalty=presence)
    logits = random_logits(1)
    counts = Counter(output)
    expected = [
        logit - counts[i] * frequency - (counts[i] > 0) * presence
        for i, logit in enumerate(logits[0].tolist())
    ]
    adjust_(logits, [row(params, prompt, output)])
    torch.testing.assert_close(logits, torch.tensor([expected]))


def test_bias_adds_and_adds_up() -> None:
    logits = random_logits(1)
    expected = logits.clone()
    expected[0, 5] += 1.5
    expected[0, 7] += -100
    adjust_(logits, [row(SamplingParams(logit_bias=((5, 1.0), (7, -100.0), (5, 0.5))))])
    assert torch.equal(logits, expected)


def test_each_row_gets_its_own_in_the_documented_order() -> None:
    logits = random_logits(4)
    before = logits.clone()
    rows = [
        row(SamplingParams(repetition_penalty=2.0), [1, 1, 2], [3]),
        row(SamplingParams(), [1, 2], [3, 3]),
        row(SamplingParams(frequency_penalty=0.5, presence_penalty=1.0), [1], [3, 3]),
        row(
            SamplingParams(
                repetition_penalty=2.0, presence_penalty=1.0, logit_bias=((3, 4.0), (9, 2.0))
            ),
            [1],
            [3],
        ),
    ]
    adjust_(logits, rows)

    def repeated(logit: torch.Tensor) -> torch.Tensor:
        return torch.where(logit < 0, logit * 2, logit / 2)

    expected = before.clone()
    expected[0, [1, 2, 3]] = repeated(before[0, [1, 2, 3]])
    expected[2, 3] = before[2, 3] - 2.0
    expected[3, [1, 3]] = repeated(before[3, [1, 3]])
    expected[3, 3] = expected[3, 3] - 1.0 + 4.0
    expected[3, 9] += 2.0
    assert torch.equal(logits, expected)


def test_an_id_outside_the_vocabulary_never_reaches_the_next_row() -> None:
    params = SamplingParams(repetition_penalty=2.0)
    with pytest.raises(IndexError):
        adjust_(random_logits(2), [row(params, [VOCAB]), row(params, [1])])


@pytest.mark.parametrize("token_id", [VOCAB, 2**31 - 1, -1])
def test_a_bias_outside_the_vocabulary_is_refused(token_id: int) -> None:
    rows = [row(SamplingParams()), row(SamplingParams(logit_bias=((0, 1.0), (token_id, 1.0))))]
    with pytest.raises(ValueError, match=str(token_id)):
        check_bias(rows, VOCAB)
