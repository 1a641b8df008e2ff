import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from grammar_tokenizers import (
    CONTROL_TOKENS,
    EOS_TOKEN_IDS,
    VISIBLE_ADDED_TOKEN,
    saved,
    unigram_tokenizer,
)
from lorax_serve.grammar.errors import UnsupportedTokenizer
from lorax_serve.grammar.vocabulary import TokenVocabulary, load_vocabulary

SMOLLM2 = Path.home() / ".cache/lorax-serve/models/SmolLM2-135M-Instruct/tokenizer.json"


@pytest.fixture(scope="module")
def byte_level(byte_level_json: Path) -> Tokenizer:
    return Tokenizer.from_file(str(byte_level_json))


@pytest.fixture(scope="module")
def sentencepiece(sentencepiece_json: Path) -> tuple[Tokenizer, TokenVocabulary]:
    vocabulary = load_vocabulary(sentencepiece_json, [2])
    return Tokenizer.from_file(str(sentencepiece_json)), vocabulary


def joined(vocabulary: TokenVocabulary, ids: list[int]) -> bytes:
    pieces = [vocabulary.tokens[i] for i in ids]
    return b"".join(piece for piece in pieces if piece is not None)


@given(text=st.text(max_size=40))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_byte_level_tokens_spell_the_text_they_encode(
    byte_level: Tokenizer, vocabulary: TokenVocabulary, text: str
) -> None:
    if VISIBLE_ADDED_TOKEN in text or any(token in text for token in CONTROL_TOKENS):
        return
    assert joined(vocabulary, byte_level.encode(text).ids) == text.encode()


@given(data=st.data())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_byte_level_tokens_decode_as_the_tokenizer_decodes(
    byte_level: Tokenizer, vocabulary: TokenVocabulary, data: st.DataObject
) -> None:
    text_ids = [i for i, text in enumerate(vocabulary.tokens) if text is not None]
    ids = data.draw(st.lists(st.sampled_from(text_ids), max_size=12))
    assert joined(vocabulary, ids).decode(errors="replace") == byte_level.decode(ids)


def test_byte_level_covers_every_byte_and_pieces_of_characters(
    vocabulary: TokenVocabulary,
) -> None:
    texts = {text for text in vocabulary.tokens if text is not None}
    assert {bytes([byte]) for byte in range(256)} <= texts
    assert any(len(text) > 1 and not _is_utf8(text) for text in texts)
    assert any("日本".encode() in text for text in texts)


def test_control_and_added_tokens_are_no_text(
    byte_level_json: Path, vocabulary: TokenVocabulary
) -> None:
    tokenizer = Tokenizer.from_file(str(byte_level_json))
    for token in (*CONTROL_TOKENS, VISIBLE_ADDED_TOKEN):
        assert vocabulary.tokens[tokenizer.token_to_id(token)] is None
    assert sum(text is None for text in vocabulary.tokens) == len(CONTROL_TOKENS) + 1
    assert vocabulary.num_tokens == tokenizer.get_vocab_size()


def test_an_end_of_sequence_id_is_no_text_even_if_the_tokenizer_thinks_so(
    byte_level_json: Path,
) -> None:
    plain = Tokenizer.from_file(str(byte_level_json)).encode("a").ids[0]
    vocabulary = load_vocabulary(byte_level_json, [plain])
    assert vocabulary.tokens[plain] is None
    assert vocabulary.eos_token_ids == (plain,)


def test_an_end_of_sequence_id_beyond_the_tokenizer_has_a_place(byte_level_json: Path) -> None:
    vocabulary = load_vocabulary(byte_level_json, [2000])
    assert vocabulary.num_tokens == 2001
    assert vocabulary.tokens[2000] is None


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_sentencepiece_tokens_spell_the_text_they_encode(
    sentencepiece: tuple[Tokenizer, TokenVocabulary], text: str
) -> None:
    if "▁" in text or any(token in text for token in ("<unk>", "<s>", "</s>")):
        return  # SentencePiece cannot tell a written ▁ from a space
    tokenizer, vocabulary = sentencepiece
    expected = (" " + text).encode() if text else b""
    assert joined(vocabulary, tokenizer.encode(text).ids) == expected


def test_sentencepiece_control_tokens_are_no_text(sentencepiece_json: Path) -> None:
    vocabulary = load_vocabulary(sentencepiece_json, [2])
    assert vocabulary.tokens[:3] == (None, None, None)
    assert vocabulary.tokens[3 : 3 + 256] == tuple(bytes([byte]) for byte in range(256))


def test_unigram_tokens_spell_the_text_they_encode(tmp_path: Path) -> None:
    tokenizer = unigram_tokenizer()
    vocabulary = load_vocabulary(saved(tokenizer, tmp_path), [1])
    assert joined(vocabulary, tokenizer.encode("the bad").ids) == b" the bad"
    assert vocabulary.tokens[:2] == (None, None)


def test_ids_by_bytes_holds_every_text_token_once(vocabulary: TokenVocabulary) -> None:
    listed = [(i, text) for text, ids in vocabulary.ids_by_bytes().items() for i in ids]
    assert sorted(listed) == [(i, t) for i, t in enumerate(vocabulary.tokens) if t is not None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": None}, "vocabulary"),
        ({"model": {}}, "vocabulary"),
        ({"model": {"vocab": {"a": "x"}}}, "vocabulary"),
        ({"pre_tokenizer": None, "decoder": {"type": "WordPiece"}}, "neither"),
        ({"pre_tokenizer": None, "decoder": None}, "neither"),
    ],
)
def test_unknown_kinds_are_refused(
    byte_level_json: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(byte_level_json.read_text()) | change))
    with pytest.raises(UnsupportedTokenizer, match=said):
        load_vocabulary(path, EOS_TOKEN_IDS)


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_broken_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UnsupportedTokenizer, match=r"tokenizer\.json"):
        load_vocabulary(path, EOS_TOKEN_IDS)


def test_a_missing_file_is_refused_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTokenizer) as refused:
        load_vocabulary(tmp_path / "tokenizer.json", EOS_TOKEN_IDS)
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("ids", [[], [-1]])
def test_a_model_without_end_of_sequence_is_refused(byte_level_json: Path, ids: list[int]) -> None:
    with pytest.raises(UnsupportedTokenizer, match="end-of-sequence"):
        load_vocabulary(byte_level_json, ids)


@pytest.mark.skipif(not SMOLLM2.exists(), reason="the demo model has not been prepared")
def test_the_demo_model_decodes_every_token_alike() -> None:
    tokenizer = Tokenizer.from_file(str(SMOLLM2))
    vocabulary = load_vocabulary(SMOLLM2, [2])
    special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    assert {i for i, text in enumerate(vocabulary.tokens) if text is None} == special
    assert sum(not _is_utf8(text) for text in vocabulary.tokens if text is not None) > 200
    for token_id, text in enumerate(vocabulary.tokens):
        if text is not None:
            assert tokenizer.decode([token_id]) == text.decode(errors="replace"), token_id


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
