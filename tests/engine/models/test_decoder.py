"""Our decoder against transformers, which wrote the models: float32, tiny, every family."""

import random
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.models.loader import load_model
from paged_batches import PagedModel, PagedSequence
from tiny_models import VARIANTS, VOCAB_SIZE, build_tiny_model

TOLERANCE = 1e-4
# Longer than every window, and than the length the scaled rotary variants were "trained" on.
PROMPT_LEN = 90


@pytest.fixture(scope="module", params=VARIANTS)
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, Decoder]:
    folder = tmp_path_factory.mktemp(request.param)
    oracle = build_tiny_model(request.param, folder)
    return oracle, _load(folder)


def _load(folder: Path) -> Decoder:
    return load_model(
        folder, device=torch.device("cpu"), dtype=torch.float32, report=lambda fraction: None
    )


def _prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(3, VOCAB_SIZE), k=length)


def _oracle_logits(oracle: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = oracle(torch.tensor([token_ids])).logits[0]
    return logits


def test_whole_prompt_has_the_oracles_logits(models: tuple[PreTrainedModel, Decoder]) -> None:
    oracle, decoder = models
    prompt = _prompt(PROMPT_LEN)
    [logits] = PagedModel(decoder).step([(PagedSequence(prompt), PROMPT_LEN)])
    torch.testing.assert_close(logits, _oracle_logits(oracle, prompt), atol=TOLERANCE, rtol=0)


def test_greedy_tokens_equal_the_oracles(models: tuple[PreTrainedModel, Decoder]) -> None:
    oracle, decoder = models
    prompt = _prompt(PROMPT_LEN, seed=1)
    expected = oracle.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, PROMPT_LEN, dtype=torch.long),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
    )
    tokens = PagedModel(decoder).generate(prompt, 64, chunk=13)
    assert tokens == expected[0, PROMPT_LEN:].tolist()


def test_mixed_steps_have_the_oracles_logits(models: tuple[PreTrainedModel, Decoder]) -> None:
    """Random chunks of five sequences at once, single rows before and among longer ones."""
    oracle, decoder = models
    rng = random.Random(2)
    lengths = [PROMPT_LEN, 61, 33, 8, 1]
    sequences = [PagedSequence(_prompt(n, seed=n)) for n in lengths]
    expected = [_oracle_logits(oracle, sequence.token_ids) for sequence in sequences]
    model = PagedModel(decoder, seed=3)
    while unfinished := [s for s in sequences if s.num_cached < len(s.token_ids)]:
        chosen = rng.sample(unfinished, rng.randint(1, len(unfinished)))
        chunks = [
            (s, min(rng.choice([1, 1, 2, 7, 30]), len(s.token_ids) - s.num_cached)) for s in chosen
        ]
        starts = [s.num_cached for s in chosen]
        chunks_logits = model.step(chunks)
        for (sequence, count), start, logits in zip(chunks, starts, chunks_logits, strict=True):
            rows = expected[sequences.index(sequence)][start : start + count]
            torch.testing.assert_close(logits, rows, atol=TOLERANCE, rtol=0)


def test_nan_of_one_sequence_stays_with_it(tmp_path: Path) -> None:
    """Blocks full of NaN, block 0 among them, must not reach a neighbour through padding."""
    oracle = build_tiny_model("llama", tmp_path)
    model = PagedModel(_load(tmp_path))
    short, long = PagedSequence(_prompt(3)), PagedSequence(_prompt(20, seed=5))
    model.step([(short, 2)])
    model.step([(long, 19)])
    for cache in model.cache.layers:
        unused = set(range(model.cache.num_blocks)) - {*short.block_table, *long.block_table}
        cache[sorted(unused)] = float("nan")
        cache[short.block_table, 2:] = float("nan")  # offsets 2 and 3 of its only block
        cache[long.block_table] = float("nan")
    logits, spoilt = model.step([(short, 1), (long, 1)])
    expected = _oracle_logits(oracle, short.token_ids)[-1:]
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
    assert spoilt.isnan().all()


def test_sixteen_bit_models_stay_close(tmp_path: Path) -> None:
    oracle = build_tiny_model("qwen3", tmp_path)
    decoder = load_model(
        tmp_path, device=torch.device("cpu"), dtype=torch.bfloat16, report=lambda fraction: None
    )
    prompt = _prompt(40)
    [logits] = PagedModel(decoder).step([(PagedSequence(prompt), 40)])
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), _oracle_logits(oracle, prompt), atol=0.15, rtol=0.05)
