"""transformers' own tokenizer for a folder, to compare ours with."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer


def load_oracle(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)  # type: ignore[no-untyped-call]
