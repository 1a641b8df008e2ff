from pathlib import Path

import pytest

from grammar_tokenizers import (
    EOS_TOKEN_IDS,
    VOCAB_SIZE,
    byte_level_tokenizer,
    saved,
    sentencepiece_tokenizer,
)
from lorax_serve.grammar.guide import GuideFactory
from lorax_serve.grammar.vocabulary import TokenVocabulary, load_vocabulary


@pytest.fixture(scope="session")
def byte_level_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its last id is VISIBLE_ADDED_TOKEN."""
    folder = tmp_path_factory.mktemp("byte_level")
    return saved(byte_level_tokenizer(with_visible_added_token=True), folder)


@pytest.fixture(scope="session")
def sentencepiece_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(sentencepiece_tokenizer(), tmp_path_factory.mktemp("sentencepiece"))


@pytest.fixture(scope="session")
def vocabulary(byte_level_json: Path) -> TokenVocabulary:
    return load_vocabulary(byte_level_json, EOS_TOKEN_IDS)


@pytest.fixture(scope="session")
def factory(byte_level_json: Path) -> GuideFactory:
    return GuideFactory(byte_level_json, vocab_size=VOCAB_SIZE, eos_token_ids=EOS_TOKEN_IDS)
