"""Tokenizers of every kind, by ours and by transformers."""

from pathlib import Path
from typing import Any

import pytest

from lorax_serve.server.text.tokenizer import Tokenizer
from oracle_tokenizer import load_oracle
from tiny_tokenizers import WRITERS


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, write in WRITERS.items()}


@pytest.fixture(scope="session")
def ours(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {kind: Tokenizer.from_folder(folder) for kind, folder in folders.items()}


@pytest.fixture(scope="session")
def theirs(folders: dict[str, Path]) -> dict[str, Any]:
    return {kind: load_oracle(folder) for kind, folder in folders.items()}
