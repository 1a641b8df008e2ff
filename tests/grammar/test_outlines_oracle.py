"""Our masks against the published `outlines`: its backends, its logits processors, its reading of
the tokenizer, step by step along random walks.

outlines has two backends, and each is compared with the engine that we do not use for the same
constraint as well: JSON schemas with outlines_core, regular expressions with llguidance.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from outlines.backends.base import BaseBackend
from outlines.backends.llguidance import LLGuidanceBackend
from outlines.backends.outlines_core import OutlinesCoreBackend
from outlines.models.transformers import Transformers
from outlines.processors import OutlinesLogitsProcessor
from transformers import PreTrainedTokenizerFast

from grammar_corpus import SCHEMAS, closed, one_of_these, pattern
from grammar_tokenizers import EOS_TOKEN_IDS, IM_END, VOCAB_SIZE, byte_level_tokenizer, saved
from grammar_walks import Walker
from lorax_serve.grammar.compiled import CompiledGrammar
from lorax_serve.grammar.guide import GuideFactory
from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.grammar.schema import ESCAPES, WHITESPACE, json_schema_grammar
from lorax_serve.grammar.vocabulary import TokenVocabulary, load_vocabulary

# torch says so of itself while outlines' processors import its compiler.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


@pytest.fixture(autouse=True)
def without_compiling() -> Iterator[None]:
    """The processors' kernels run as they are written: compiling each takes longer than all."""
    with torch.compiler.set_stance("force_eager"):
        yield


class Ours:
    """A vocabulary and what walks through grammars over it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vocabulary: TokenVocabulary = load_vocabulary(path, EOS_TOKEN_IDS)
        self.factory = GuideFactory(path, vocab_size=VOCAB_SIZE, eos_token_ids=EOS_TOKEN_IDS)

    def walk(self, grammar: CompiledGrammar, seed: int) -> Iterator[tuple[set[int], int]]:
        """(allowed ids, the one taken) at every position."""
        guide = self.factory.create(grammar.kind, grammar.payload, grammar.digest)
        for allowed, taken in Walker(self.vocabulary, VOCAB_SIZE).steps(guide, seed):
            yield set(allowed), taken


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return Ours(saved(byte_level_tokenizer(), tmp_path_factory.mktemp("outlines")))


@pytest.fixture(scope="module")
def model(ours: Ours) -> Transformers:
    """outlines' view of a model; its backends look at the tokenizer only."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(ours.path), eos_token=IM_END)
    return Transformers(None, tokenizer)


@pytest.fixture(scope="module")
def llguidance(model: Transformers) -> BaseBackend:
    return LLGuidanceBackend(model)


@pytest.fixture(scope="module")
def outlines_core(model: Transformers) -> BaseBackend:
    return OutlinesCoreBackend(model)


def assert_same_masks(
    ours: Ours, grammar: CompiledGrammar, processor: OutlinesLogitsProcessor, seed: int
) -> None:
    """At every position of a walk: the same texts may follow, and the text may end or not.

    outlines knows one of our end-of-sequence ids.
    """
    tokens = ours.vocabulary.tokens
    taken: list[int] = [0]  # what stands before is nothing to a processor
    processor.reset()
    for allowed, token_id in ours.walk(grammar, seed):
        logits = processor(torch.tensor([taken]), torch.zeros(1, len(tokens)))
        theirs = set(logits[0].isfinite().nonzero().flatten().tolist())
        texts = {tokens[i] for i in allowed if tokens[i]}
        their_texts = {tokens[i] for i in theirs if tokens[i]}
        assert texts == their_texts or is_forced(texts, their_texts), taken
        assert (EOS_TOKEN_IDS[0] in theirs) is allowed.issuperset(EOS_TOKEN_IDS), taken
        taken.append(token_id)


def is_forced(texts: set[bytes | None], others: set[bytes | None]) -> bool:
    """Where only one text can follow, llguidance allows a single one of the tokens it begins with,
    and outlines_core all of them.
    """
    fewer, more = sorted((texts, others), key=len)
    whole = max(filter(None, more), key=len)
    return len(fewer) == 1 and fewer < more and all(whole.startswith(text or b"-") for text in more)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_by_llguidance(name: str, ours: Ours, llguidance: BaseBackend) -> None:
    """Given the blanks and escapes that we allow, the masks are the same."""
    options = {"whitespace_pattern": WHITESPACE, "json_allowed_escapes": ESCAPES}
    schema = json.dumps({"x-guidance": options, **SCHEMAS[name]})
    processor = llguidance.get_json_schema_logits_processor(schema)
    grammar = json_schema_grammar(SCHEMAS[name], strict=True)
    for seed in range(2):
        assert_same_masks(ours, grammar, processor, seed)


# outlines_core has no ranges and other ideas of what may stand in a free string; and in its arrays
# it loses the comma after a line break, preferring alternatives in their order (index_vocabulary).
PLAIN_SCHEMAS: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "enum": one_of_these("yes", "no", 7, None, True),
    "const": {"const": "hello"},
    "pattern": pattern("^[A-Z]{2}-[0-9]{3}$"),
    "object": closed({"name": pattern("^[a-z]{1,8}$"), "age": {"type": "integer"}}),
    "nested": closed({"a": closed({"b": one_of_these("x", "y")}), "c": {"type": "null"}}),
    "optional": closed({"a": {"type": "boolean"}, "b": {"type": "boolean"}}, required=["a"]),
    "union": {"anyOf": [closed({"ok": {"const": True}}), {"type": "integer"}]},
}


@pytest.mark.parametrize("name", PLAIN_SCHEMAS)
def test_schemas_by_outlines_core(name: str, ours: Ours, outlines_core: BaseBackend) -> None:
    schema = PLAIN_SCHEMAS[name]
    blanks = rf"(?:{WHITESPACE})?"
    processor = outlines_core.get_json_schema_logits_processor(json.dumps(schema), blanks)
    grammar = json_schema_grammar(schema, strict=True)
    for seed in range(4):
        assert_same_masks(ours, grammar, processor, seed)


PATTERNS = (
    "[0-9]{3}-[0-9]{4}",
    "(red|green|blue)",
    "[a-z]+@[a-z]+[.](com|org)",
    "(the|a) (quick|lazy) (fox|dog)",
    "-?(0|[1-9][0-9]{0,5})[.][0-9]{2}",
    "ID [A-F0-9]{8}",
)
# For outlines_core by itself these are no full matches (index_vocabulary).
FULL_MATCHES = ("a|ab", "a( b)?", "(ab?)+", "x*", "[a-z].{0,6};", "the( quick)*( fox)?")
# outlines reads the tokens of half a character all as U+FFFD for outlines_core.
BEYOND_ASCII = ("größe|日本語?", "[^a-z]{2,4}", ".{0,5};")


@pytest.mark.parametrize("source", [*PATTERNS, *FULL_MATCHES, *BEYOND_ASCII])
async def test_patterns_by_llguidance(source: str, ours: Ours, llguidance: BaseBackend) -> None:
    grammar = await RegexCompiler(ours.path, EOS_TOKEN_IDS, wall_seconds=120).regex(source)
    processor = llguidance.get_regex_logits_processor(source)
    for seed in range(4):
        assert_same_masks(ours, grammar, processor, seed)


@pytest.mark.parametrize("source", PATTERNS)
async def test_patterns_by_outlines_core(
    source: str, ours: Ours, outlines_core: BaseBackend
) -> None:
    grammar = await RegexCompiler(ours.path, EOS_TOKEN_IDS, wall_seconds=120).regex(source)
    processor = outlines_core.get_regex_logits_processor(source)
    for seed in range(4):
        assert_same_masks(ours, grammar, processor, seed)


async def test_a_choice_by_llguidance(ours: Ours, llguidance: BaseBackend) -> None:
    options = ["New", "New York", "yes", "😀"]
    grammar = await RegexCompiler(ours.path, EOS_TOKEN_IDS, wall_seconds=120).choice(options)
    processor = llguidance.get_regex_logits_processor("|".join(options))
    for seed in range(8):
        assert_same_masks(ours, grammar, processor, seed)
