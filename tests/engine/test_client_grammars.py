"""Grammars of clients in a real engine: what they allow, and what one that goes too far costs."""

from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer

from local_engine import LocalEngine, greedy
from lorax_serve.grammar.compiled import LARK, compiled_grammar, lark_grammar
from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import ErrorCode, GrammarKind, GrammarSpec, StopConditions
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

PROMPT = [5, 6, 7, 8]
NUM_TOKENS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model("llama", folder)
    write_byte_level(folder, vocab_size=300)
    return folder


def asked(name: str, grammar: str | None, seed: int = 1) -> Generate:
    request = greedy(name, PROMPT, temperature=1.0, seed=seed)
    spec = None
    if grammar is not None:
        compiled = compiled_grammar(LARK, lark_grammar(grammar).encode())
        spec = GrammarSpec(GrammarKind(compiled.kind), compiled.payload, compiled.digest)
    return msgspec.structs.replace(
        request, stop=StopConditions(max_new_tokens=NUM_TOKENS), grammar=spec
    )


def test_outputs_are_of_the_grammar(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    grammar = 'start: "a" start "a" | "b" start "b" | "c"'
    with LocalEngine(folder) as engine:
        generated = engine.generate(*(asked(str(seed), grammar, seed) for seed in range(6)))
    texts = [tokenizer.decode(each.token_ids) for each in generated.values()]
    ended = [text for text in texts if "c" in text and len(text) < NUM_TOKENS]
    assert ended
    assert all(text == text[::-1] and set(text) <= set("abc") for text in ended)


def test_one_that_goes_over_a_steps_limit_fails_alone(folder: Path) -> None:
    too_far = (
        "start: r0\n" + "\n".join(f"r{i}: r{i + 1} r{i + 1}" for i in range(40)) + '\nr40: "x"'
    )
    free, fitting = asked("free", None), asked("fitting", 'start: ("a" | "b")~60')
    with LocalEngine(folder) as engine:
        alone = engine.generate(free, fitting)
        together = engine.generate(free, asked("too far", too_far), fitting)
        assert together["too far"].failure.code is ErrorCode.GENERATION_ERROR
        assert {name: together[name].token_ids for name in alone} == {
            name: each.token_ids for name, each in alone.items()
        }


def test_what_is_no_grammar_is_refused_by_the_engine_too(folder: Path) -> None:
    with LocalEngine(folder) as engine:
        failure = engine.generate(asked("none", "start: a"))["none"].failure
    assert failure.code is ErrorCode.INVALID_GRAMMAR
