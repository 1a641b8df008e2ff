"""`min_new_tokens` against transformers' own, and where a grammar has ended before."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from local_engine import LocalEngine, greedy
from lorax_serve.engine.sampling_rows import mask_rows, sampling_rows
from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import SamplingParams, StopConditions
from oracles import prompts, reference_tokens
from tiny_models import build_tiny_model

NUM_TOKENS = 24


def request(name: str, prompt: list[int], stop: StopConditions) -> Generate:
    return msgspec.structs.replace(greedy(name, prompt), stop=stop)


@pytest.mark.parametrize("how", ["eos", "stop_token"])
def test_greedy_tokens_equal_transformers(tmp_path: Path, how: str) -> None:
    model = build_tiny_model("llama", tmp_path)
    (prompt,) = prompts(1, seed=21, low=8)
    end = reference_tokens(model, prompt, NUM_TOKENS)[3]
    if how == "eos":
        for name in ("config.json", "generation_config.json"):
            if (file := tmp_path / name).exists():
                file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": end}))
    ids = (end,) if how == "stop_token" else ()
    least = (0, 1, 3, 4, 5, 12, NUM_TOKENS)
    requests = [
        request(
            str(number),
            prompt,
            StopConditions(
                max_new_tokens=NUM_TOKENS,
                min_new_tokens=number,
                stop_token_ids=ids,
                ignore_eos=how == "stop_token",
            ),
        )
        for number in least
    ]
    with LocalEngine(tmp_path) as engine:
        together = engine.generate(*requests)
    lengths = []
    for number in least:
        got = together[str(number)].token_ids
        assert got == reference_tokens(model, prompt, NUM_TOKENS, end=end, min_tokens=number)
        assert end not in got[:number]
        lengths.append(len(got))
    assert lengths[0] <= 4 < lengths[-1]


class OneWordGuide:
    """A grammar as the sampler sees one: these ids are allowed now."""

    def __init__(self, allowed: set[int]) -> None:
        self._allowed = allowed

    def fill_mask(self, row: np.ndarray) -> None:
        words = row.view(np.uint32)
        for token_id in self._allowed:
            words[token_id // 32] |= np.uint32(1 << token_id % 32)


@pytest.mark.parametrize(
    ("allowed", "left"),
    [({2, 7, 40}, {7}), ({2, 40}, {2, 40}), ({2}, {2}), (set(), set())],
    ids=str,
)
def test_what_a_grammar_has_ended_ends(allowed: set[int], left: set[int]) -> None:
    """2 and 40 end the sequence, too early; where nothing else is allowed they stay."""
    sequence = SimpleNamespace(
        guide=OneWordGuide(allowed),
        banned_token_ids=frozenset({2, 40}),
        sampling=SamplingParams(),
        prompt_token_ids=[1],
        output_token_ids=[],
    )
    items = cast(Any, (SimpleNamespace(sequence=sequence),))
    mask = mask_rows(items, 64)
    assert mask is not None
    words = mask.bitmask[0].numpy().view(np.uint32)
    assert {i for i in range(64) if words[i // 32] >> np.uint32(i % 32) & 1} == left
    assert sampling_rows(items)[0].banned_token_ids == ()
