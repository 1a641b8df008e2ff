"""The bytes of every token, read from tokenizer.json and nothing else.

Constraints are about text, text is bytes, and a token may hold half a character. So tokens are
kept as bytes, and tokens that are not text (control tokens such as an end of turn) have none: no
grammar can then mistake one for the characters of its name.

Two spellings are understood: byte-level BPE, where each byte is written as one printable
character (the table of GPT-2's encoder.py), and SentencePiece, where a space is written as U+2581
and a byte without a piece of its own as <0xHH>.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorax_serve.grammar.errors import UnsupportedTokenizer

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class TokenVocabulary:
    """What each token id writes.

    tokens: by id; None for control and added tokens, end-of-sequence tokens and unused ids, else
    at least one byte.
    """

    tokens: tuple[bytes | None, ...]
    eos_token_ids: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """One more than the highest id."""
        return len(self.tokens)

    def ids_by_bytes(self) -> dict[bytes, list[int]]:
        """Text tokens only; ids that write the same bytes share an entry."""
        ids: dict[bytes, list[int]] = {}
        for token_id, text in enumerate(self.tokens):
            if text is not None:
                ids.setdefault(text, []).append(token_id)
        return ids


def load_vocabulary(tokenizer_json: Path, eos_token_ids: Sequence[int]) -> TokenVocabulary:
    """Raises UnsupportedTokenizer, naming what the file lacks."""
    try:
        spec = json.loads(tokenizer_json.read_bytes())
    except OSError as error:
        raise UnsupportedTokenizer(f"tokenizer.json cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UnsupportedTokenizer("tokenizer.json is not valid JSON.") from error
    return vocabulary_from_spec(spec, eos_token_ids)


def vocabulary_from_spec(spec: Any, eos_token_ids: Sequence[int]) -> TokenVocabulary:
    """As `load_vocabulary`, for a tokenizer.json already parsed."""
    if not eos_token_ids or min(eos_token_ids) < 0:
        raise UnsupportedTokenizer(
            f"The model must name its end-of-sequence ids; it says {list(eos_token_ids)}."
        )
    try:
        tokens = _token_bytes(spec, frozenset(eos_token_ids))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnsupportedTokenizer(
            f"tokenizer.json does not hold the vocabulary of a tokenizer ({error!r})."
        ) from error
    return TokenVocabulary(tokens, tuple(eos_token_ids))


def is_byte_level(spec: Mapping[str, Any]) -> bool:
    return any(
        node.get("type") == "ByteLevel"
        for field in ("decoder", "pre_tokenizer")
        for node in _nodes(spec.get(field))
    )


def _token_bytes(spec: Any, eos_token_ids: frozenset[int]) -> tuple[bytes | None, ...]:
    pieces = _pieces(spec["model"])
    control = eos_token_ids | {int(token["id"]) for token in spec.get("added_tokens") or ()}
    spell = _byte_level_bytes if is_byte_level(spec) else _sentencepiece_spelling(spec)
    tokens: list[bytes | None] = [None] * (max(control | set(pieces)) + 1)
    for token_id, piece in pieces.items():
        if token_id not in control:
            tokens[token_id] = spell(piece) or None
    return tuple(tokens)


def _pieces(model: Mapping[str, Any]) -> dict[int, str]:
    """The written form of each id, without the piece for unknown text, which writes nothing."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: [piece, score] in order of id
        unknown_id = model.get("unk_id")
        return {i: str(entry[0]) for i, entry in enumerate(vocab) if i != unknown_id}
    unknown = model.get("unk_token")
    return {int(i): str(piece) for piece, i in vocab.items() if piece != unknown}


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    """A pipeline step and, for a Sequence, the steps inside it."""
    if node is None:
        return
    yield node
    for field in ("decoders", "pretokenizers", "normalizers"):
        for inner in node.get(field) or ():
            yield from _nodes(inner)


def _byte_level_table() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_level_table()


def _byte_level_bytes(piece: str) -> bytes | None:
    """None for a piece with characters outside the table: it spells no bytes, so it is no text."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in piece])
    except KeyError:
        return None


class _SentencePieceSpelling:
    def __init__(self, space: str, *, byte_fallback: bool) -> None:
        self._space = space
        self._byte_fallback = byte_fallback

    def __call__(self, piece: str) -> bytes | None:
        byte = BYTE_PIECE.fullmatch(piece) if self._byte_fallback else None
        if byte is not None:
            return bytes([int(byte[1], 16)])
        return piece.replace(self._space, " ").encode()


def _sentencepiece_spelling(spec: Mapping[str, Any]) -> _SentencePieceSpelling:
    steps = [
        node
        for field in ("decoder", "pre_tokenizer", "normalizer")
        for node in _nodes(spec.get(field))
    ]
    byte_fallback = bool(spec["model"].get("byte_fallback"))
    for step in steps:
        if step.get("type") == "Metaspace":
            return _SentencePieceSpelling(step["replacement"], byte_fallback=byte_fallback)
        if step.get("type") == "Replace" and step.get("content") == " ":
            return _SentencePieceSpelling(step["pattern"]["String"], byte_fallback=byte_fallback)
    raise UnsupportedTokenizer(
        "tokenizer.json is neither byte-level BPE nor SentencePiece with a space marker, "
        "so the bytes of its tokens are unknown."
    )
