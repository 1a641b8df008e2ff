"""Calls in the output of a real model that was made to begin some, held to their schemas."""

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer

from call_texts import FUNCTIONS, read_calls
from local_engine import LocalEngine, greedy
from lorax_serve.grammar.call_grammar import tool_call_grammar
from lorax_serve.grammar.call_rules import CallFamily
from lorax_serve.grammar.control_tokens import load_control_tokens
from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import GrammarKind, GrammarSpec, StopConditions
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

PROMPT = [5, 6, 7, 8]
MARK = "<tool_call>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has the mark as a token."""
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model("llama", folder)
    write_byte_level(folder, vocab_size=300)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(MARK, special=False, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def calling(folder: Path, name: str, seed: int, *, is_held: bool, parallel: bool) -> Generate:
    """A request whose model begins calls whenever it may."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    grammar = tool_call_grammar(
        CallFamily.HERMES,
        {"weather": FUNCTIONS["weather"]},
        parallel=parallel,
        control_tokens=load_control_tokens(folder / "tokenizer.json", [2]),
    )
    spec = GrammarSpec(GrammarKind(grammar.kind), grammar.payload, grammar.digest)
    digits = [tokenizer.token_to_id(str(digit)) for digit in range(10)]
    asked = greedy(name, PROMPT, temperature=1.0, seed=seed)
    # A call may hold a number of any length.
    bias = ((tokenizer.token_to_id(MARK), 50.0), *((each, -20.0) for each in digits))
    return msgspec.structs.replace(
        asked,
        sampling=msgspec.structs.replace(asked.sampling, logit_bias=bias),
        stop=StopConditions(max_new_tokens=120),
        grammar=spec if is_held else None,
    )


@pytest.mark.parametrize("parallel", [True, False])
def test_every_call_fits_and_neighbours_do_not_notice(folder: Path, parallel: bool) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    held = [
        calling(folder, f"held{seed}", seed, is_held=True, parallel=parallel) for seed in range(4)
    ]
    free = calling(folder, "free", 1, is_held=False, parallel=parallel)
    with LocalEngine(folder) as engine:
        alone = engine.generate(free)["free"].token_ids
        together = engine.generate(free, *held)
    assert together.pop("free").token_ids == alone
    num_calls = 0
    for generated in together.values():
        text = tokenizer.decode(generated.token_ids, skip_special_tokens=True)
        # The last one may have been cut off.
        calls = [call for call in read_calls(CallFamily.HERMES, [text]) if is_whole(call[1])]
        assert parallel or len(calls) <= 1
        num_calls += len(calls)
        for name, arguments in calls:
            assert name == "weather"
            jsonschema.validate(json.loads(arguments), FUNCTIONS["weather"])
    assert num_calls >= 4
    assert not read_calls(CallFamily.HERMES, [tokenizer.decode(alone)]), "it cannot by itself"


def is_whole(arguments: str) -> bool:
    return arguments.endswith("}")
