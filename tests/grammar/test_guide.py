import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from grammar_corpus import BOMB_SCHEMAS, DOCUMENTS, SCHEMAS
from grammar_tokenizers import (
    EOS_TOKEN_IDS,
    VISIBLE_ADDED_TOKEN,
    VOCAB_SIZE,
    byte_level_tokenizer,
    saved,
)
from grammar_walks import Walker, allowed_ids, ids_of, new_row
from lorax_serve.grammar.compiled import CompiledGrammar
from lorax_serve.grammar.errors import (
    GrammarError,
    GrammarTooComplex,
    GuideRejected,
    InvalidGrammar,
    UnsupportedTokenizer,
)
from lorax_serve.grammar.guide import Guide, GuideFactory
from lorax_serve.grammar.schema import json_object_grammar, json_schema_grammar
from lorax_serve.grammar.vocabulary import TokenVocabulary, load_vocabulary


def started(factory: GuideFactory, grammar: CompiledGrammar) -> Guide:
    return factory.create(grammar.kind, grammar.payload, grammar.digest)


def for_schema(factory: GuideFactory, schema: Any) -> Guide:
    return started(factory, json_schema_grammar(schema, strict=True))


def ids_for(vocabulary: TokenVocabulary, text: bytes) -> list[int]:
    """One token per byte, which is never the only spelling but always one."""
    by_bytes = vocabulary.ids_by_bytes()
    return [by_bytes[bytes([byte])][0] for byte in text]


def assert_valid(schema: Any, text: bytes) -> None:
    document = json.loads(text.decode())
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(document)


def _with_leap_seconds() -> jsonschema.FormatChecker:
    """RFC 3339's grammar has a sixtieth second in every minute, the library in none."""
    exact = jsonschema.Draft202012Validator.FORMAT_CHECKER
    lenient = jsonschema.FormatChecker()
    lenient.checkers = dict(exact.checkers)
    for name in ("time", "date-time"):

        def is_valid(instance: object, name: str = name) -> bool:
            text = (
                re.sub(r"(\d\d:\d\d):60", r"\1:59", instance) if isinstance(instance, str) else ""
            )
            return exact.conforms(text, name) or not isinstance(instance, str)

        lenient.checks(name)(is_valid)
    return lenient


FORMATS = _with_leap_seconds()


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_sampled_satisfies_the_schema(
    name: str, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    grammar = json_schema_grammar(SCHEMAS[name], strict=True)
    walker = Walker(vocabulary, VOCAB_SIZE)
    for seed in range(4):
        assert_valid(SCHEMAS[name], walker.text(started(factory, grammar), seed))


@pytest.mark.parametrize("name", ["person", "invoice", "tool_union", "unicode", "matrix"])
def test_sentencepiece_vocabularies_too(name: str, sentencepiece_json: Path) -> None:
    vocabulary = load_vocabulary(sentencepiece_json, [2])
    factory = GuideFactory(sentencepiece_json, vocab_size=VOCAB_SIZE, eos_token_ids=[2])
    walker = Walker(vocabulary, VOCAB_SIZE)
    grammar = json_schema_grammar(SCHEMAS[name], strict=True)
    for seed in range(4):
        assert_valid(SCHEMAS[name], walker.text(started(factory, grammar), seed))


def test_json_object_walks_are_objects(factory: GuideFactory, vocabulary: TokenVocabulary) -> None:
    walker = Walker(vocabulary, VOCAB_SIZE)
    for seed in range(20):
        text = walker.text(started(factory, json_object_grammar()), seed)
        assert isinstance(json.loads(text.decode()), dict)


@pytest.mark.parametrize("name", SCHEMAS)
def test_masks_equal_those_of_llguidance_itself(name: str, tmp_path: Path) -> None:
    """Token by token, with llguidance's own reading of the unchanged tokenizer.json."""
    path = saved(byte_level_tokenizer(), tmp_path)
    vocabulary = load_vocabulary(path, EOS_TOKEN_IDS)
    ours = GuideFactory(path, vocab_size=VOCAB_SIZE, eos_token_ids=EOS_TOKEN_IDS)
    theirs = LLTokenizer(path.read_text(), n_vocab=VOCAB_SIZE, eos_token=list(EOS_TOKEN_IDS))
    grammar = json_schema_grammar(SCHEMAS[name], strict=True)
    matcher = LLMatcher(theirs, grammar.payload.decode(), log_level=0)
    row = new_row(VOCAB_SIZE)
    for allowed, token_id in Walker(vocabulary, VOCAB_SIZE).steps(started(ours, grammar), seed=7):
        matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        assert allowed == ids_of(row)
        assert matcher.consume_token(token_id)


def test_only_text_and_end_of_sequence_are_ever_allowed(
    byte_level_json: Path, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    tokenizer = Tokenizer.from_file(str(byte_level_json))
    added = set(tokenizer.get_added_tokens_decoder())
    forbidden = (added | set(range(vocabulary.num_tokens, 32 * 22))) - set(EOS_TOKEN_IDS)
    assert tokenizer.token_to_id(VISIBLE_ADDED_TOKEN) in forbidden
    for name in ("tags", "annotated", "unicode", "pattern_search"):
        guide = for_schema(factory, SCHEMAS[name])
        for allowed, _ in Walker(vocabulary, VOCAB_SIZE).steps(guide, seed=3):
            assert not forbidden.intersection(allowed)


def test_a_control_tokens_name_can_still_be_written(
    factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    """Also where the schema forces it, which must not be a dead end."""
    guide = for_schema(factory, {"const": f"<|im_end|>{VISIBLE_ADDED_TOKEN}"})
    text = Walker(vocabulary, VOCAB_SIZE).text(guide, seed=0)
    assert json.loads(text) == f"<|im_end|>{VISIBLE_ADDED_TOKEN}"


def test_an_added_token_that_merges_make_is_spelled_otherwise(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    made = tokenizer.encode("name").ids
    assert len(made) == 1
    tokenizer.add_tokens(["name"])
    path = saved(tokenizer, tmp_path)
    factory = GuideFactory(path, vocab_size=VOCAB_SIZE, eos_token_ids=EOS_TOKEN_IDS)
    walker = Walker(load_vocabulary(path, EOS_TOKEN_IDS), VOCAB_SIZE)
    steps = list(walker.steps(for_schema(factory, {"const": "no name"}), seed=0))
    assert all(made[0] not in allowed for allowed, _ in steps)


def test_half_a_character_is_followed_by_its_other_half(
    factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    guide = for_schema(factory, {"type": "string", "maxLength": 3})
    for token_id in ids_for(vocabulary, b'"' + "é".encode()[:1]):
        guide.advance(token_id)
    allowed = [vocabulary.tokens[i] or b"" for i in allowed_ids(guide, VOCAB_SIZE)]
    assert b"\xa9" in allowed
    assert all(0x80 <= text[0] <= 0xBF for text in allowed)


def test_every_end_of_sequence_id_is_allowed_exactly_where_the_text_may_end(
    factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    guide = for_schema(factory, {"type": "integer", "minimum": 10, "maximum": 999})
    expected = [False, False, True, True]
    for position, digit in enumerate([*ids_for(vocabulary, b"123"), None]):
        allowed = set(allowed_ids(guide, VOCAB_SIZE))
        assert guide.accepts_eos is expected[position]
        assert allowed.issuperset(EOS_TOKEN_IDS) is expected[position]
        assert allowed.isdisjoint(EOS_TOKEN_IDS) is not expected[position]
        if digit is not None:
            guide.advance(digit)


def test_a_complete_value_is_finished_and_allows_only_the_end(
    factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    guide = for_schema(factory, SCHEMAS["person"])
    document = json.dumps(DOCUMENTS["person"]).encode()
    for token_id in ids_for(vocabulary, document):
        assert not guide.finished
        guide.advance(token_id)
    assert guide.finished
    assert allowed_ids(guide, VOCAB_SIZE) == sorted(EOS_TOKEN_IDS)
    with pytest.raises(GuideRejected):
        guide.advance(ids_for(vocabulary, b" ")[0])


def test_a_value_that_may_go_on_is_not_finished(
    factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    guide = for_schema(factory, {"type": "integer"})
    guide.advance(ids_for(vocabulary, b"1")[0])
    assert (guide.accepts_eos, guide.finished) == (True, False)
    guide.advance(EOS_TOKEN_IDS[1])
    assert (guide.accepts_eos, guide.finished) == (True, True)
    assert allowed_ids(guide, VOCAB_SIZE) == sorted(EOS_TOKEN_IDS)


def test_exactly_the_allowed_tokens_can_be_taken(
    factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    """A new guide for every token, since a rejection spoils one."""
    grammar = json_schema_grammar(SCHEMAS["hex_colour"], strict=True)
    prefix = ids_for(vocabulary, b'{"colour": "#0')
    for token_id in range(-1, VOCAB_SIZE + 40):
        guide = started(factory, grammar)
        for taken in prefix:
            guide.advance(taken)
        if token_id in allowed_ids(guide, VOCAB_SIZE):
            guide.advance(token_id)
        else:
            with pytest.raises(GuideRejected):
                guide.advance(token_id)


def test_guides_of_one_grammar_are_independent(
    factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    grammar = json_schema_grammar(SCHEMAS["rating"], strict=True)
    first, second = started(factory, grammar), started(factory, grammar)
    before = allowed_ids(second, VOCAB_SIZE)
    first.advance(ids_for(vocabulary, b"3")[0])
    assert allowed_ids(second, VOCAB_SIZE) == before
    assert first.finished
    assert not second.finished


@pytest.mark.parametrize(
    "name", [n for n in BOMB_SCHEMAS if n not in ("depth_5000", "enum_200000")]
)
def test_bombs_that_compile_stay_within_the_limits(
    name: str, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    """Each position has a mask or is a dead end; none of them raises anything else."""
    try:
        guide = for_schema(factory, BOMB_SCHEMAS[name]())
    except (GrammarTooComplex, InvalidGrammar):
        return
    for _ in range(100):
        allowed = allowed_ids(guide, VOCAB_SIZE)
        if guide.finished or not allowed:
            return
        guide.advance(allowed[len(allowed) // 2])


def test_a_dead_end_is_an_empty_mask(factory: GuideFactory) -> None:
    """Past the frontend's checks, as another frontend might send it."""
    payload = json.dumps({"grammars": [{"json_schema": {"$ref": "#"}}]}).encode()
    guide = factory.create("llguidance", payload, "digest")
    assert allowed_ids(guide, VOCAB_SIZE) == []
    assert not guide.accepts_eos
    assert not guide.finished


def test_a_vocabulary_without_the_needed_text_is_a_dead_end(tmp_path: Path) -> None:
    spec = json.loads(byte_level_tokenizer().to_str())
    quote = spec["model"]["vocab"]['"']
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec))
    factory = GuideFactory(path, vocab_size=quote, eos_token_ids=EOS_TOKEN_IDS)
    assert allowed_ids(for_schema(factory, {"type": "string", "maxLength": 3}), quote) == []


def test_logits_narrower_than_the_tokenizer_are_masked_to_their_width(
    byte_level_json: Path, vocabulary: TokenVocabulary
) -> None:
    width = vocabulary.num_tokens - 45
    factory = GuideFactory(byte_level_json, vocab_size=width, eos_token_ids=EOS_TOKEN_IDS)
    guide = for_schema(factory, {"type": "string"})
    guide.advance(ids_for(vocabulary, b'"')[0])
    allowed = allowed_ids(guide, width)
    assert max(allowed) < width
    assert len(allowed) > 200


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("llguidance", b"{"),
        ("llguidance", b"\xff"),
        ("llguidance", b'{"grammars": [{"json_schema": {"not": {}}}]}'),
        ("outlines_index", b""),
        ("outlines_index", b"no index"),
        ("pickle", b""),
    ],
)
def test_payloads_not_of_their_kind_are_refused(
    factory: GuideFactory, kind: str, payload: bytes
) -> None:
    with pytest.raises(GrammarError):
        factory.create(kind, payload, "digest of a broken payload")


def test_a_row_of_the_wrong_shape_is_refused(factory: GuideFactory) -> None:
    with pytest.raises(ValueError, match=r"expected an int32 row of shape \(22,\)"):
        for_schema(factory, True).fill_mask(np.zeros(21, dtype=np.int32))


def test_an_end_of_sequence_id_the_logits_lack_is_refused(byte_level_json: Path) -> None:
    with pytest.raises(UnsupportedTokenizer, match="expected end-of-sequence ids below 600"):
        GuideFactory(byte_level_json, vocab_size=600, eos_token_ids=[2, 650])


def test_leftovers_of_other_tokenizers_in_the_decoder_do_not_matter(
    byte_level_json: Path, factory: GuideFactory, vocabulary: TokenVocabulary, tmp_path: Path
) -> None:
    """As converters from GGUF write it; read literally, llguidance would take text for bytes."""
    spec = json.loads(byte_level_json.read_text())
    fallback = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    spec["decoder"] = {"type": "Sequence", "decoders": [*fallback, spec["decoder"]]}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec))
    other = GuideFactory(path, vocab_size=VOCAB_SIZE, eos_token_ids=EOS_TOKEN_IDS)
    grammar = json_schema_grammar(SCHEMAS["unicode"], strict=True)
    twin = started(other, grammar)
    for allowed, token_id in Walker(vocabulary, VOCAB_SIZE).steps(started(factory, grammar), 5):
        assert allowed_ids(twin, VOCAB_SIZE) == allowed
        twin.advance(token_id)
