"""The tokens of a vocabulary that stand outside its text: marks of turns, of calls and the like."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ControlToken:
    id: int
    content: str
    is_special: bool  # a text leaves it out unless asked


def load_control_tokens(
    tokenizer_json: Path, eos_token_ids: Sequence[int]
) -> tuple[ControlToken, ...]:
    """The added tokens of a tokenizer.json that `load_vocabulary` takes, but for those that end."""
    spec = json.loads(tokenizer_json.read_bytes())
    return tuple(
        ControlToken(int(token["id"]), token["content"], bool(token.get("special")))
        for token in spec.get("added_tokens") or ()
        if token["id"] not in eos_token_ids
    )


def takes_part(content: str, mark: str) -> bool:
    """Whether a token's content, among any text, may be a part of the mark, or have it within."""
    if content in mark or mark in content:
        return True
    return any(
        content.startswith(mark[cut:]) or content.endswith(mark[:cut])
        for cut in range(1, len(mark))
    )
