"""From tokens to text: what each token adds, in bytes, and how bytes become characters.

`PieceRules` reads the `decoder` part of tokenizer.json. In every decoder accepted here a token adds
the same bytes wherever it stands, but for the start of the text, so text can be made one token at a
time and never has to be decoded again:

- ByteLevel (GPT-2, Llama 3, Qwen): each character of a token stands for one byte.
- Replace, ByteFallback, Fuse, Strip (SentencePiece models: Llama 2, Mistral): "▁" is a space,
  `<0xE4>` one byte, and a text loses the space it starts with.
- Metaspace: "▁" is a space, dropped from the first token.

Invalid UTF-8 becomes U+FFFD as tokenizers does it, one for each maximal broken part (ByteLevel) or
for each byte (ByteFallback). One difference is deliberate: where tokenizers gives up a whole run of
byte tokens for one bad byte, the run's valid characters are kept. Otherwise nothing of a run would
be certain before its end, and some models spell every newline as a byte token.
"""

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lorax_serve.server.errors import StartError

REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SENTENCEPIECE = re.compile(r"(Replace/?)*(ByteFallback/?)?(Fuse(/Strip)?)?")
_SUPPORTED = "ByteLevel, Metaspace, or Replace/ByteFallback/Fuse/Strip in that order"


def _gpt2_alphabet() -> Mapping[int, int]:
    """Character to byte: printable Latin-1 stands for itself, U+0100 and up for the other bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = dict.fromkeys(others, _NO_BYTE)
    table.update({0x100 + place: byte for place, byte in enumerate(others)})
    return table


_NO_BYTE = 0xFFFF  # outside Latin-1, so that encoding such a token fails
_GPT2_ALPHABET = _gpt2_alphabet()


@dataclass(frozen=True, slots=True)
class PieceRules:
    """How one tokenizer's token strings turn into bytes."""

    byte_level: bool = False
    byte_fallback: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    dropped_from_first: str = ""  # characters the first token of a text loses
    stripped: str = ""  # the character a text loses at its start …
    num_stripped: int = 0  # … at most so often

    @classmethod
    def parse(cls, decoder: Mapping[str, object] | None) -> "PieceRules":
        """`decoder` as in tokenizer.json. Raises StartError for one we cannot stream."""
        parts = _flatten(decoder)
        names = [str(part.get("type")) for part in parts]
        if names == ["ByteLevel"]:
            return cls(byte_level=True)
        if names == ["Metaspace"]:
            return _metaspace(parts[0])
        shown = "/".join(names)
        if not parts or not _SENTENCEPIECE.fullmatch(shown):
            raise StartError(
                f"The tokenizer's decoder is {shown or 'absent'}; it must be {_SUPPORTED}."
            )
        stripped, num_stripped = _strip(parts[-1])
        return cls(
            byte_fallback="ByteFallback" in names,
            replacements=tuple(_replacement(p) for p in parts if p.get("type") == "Replace"),
            stripped=stripped,
            num_stripped=num_stripped,
        )

    def piece(self, token: str) -> bytes:
        """What a token adds to a text anywhere but at its start."""
        if self.byte_level:
            try:
                return token.translate(_GPT2_ALPHABET).encode("latin-1")
            except UnicodeEncodeError:  # an added token that is plain text
                return token.encode()
        for old, new in self.replacements:
            token = token.replace(old, new)
        byte = _BYTE_TOKEN.fullmatch(token) if self.byte_fallback else None
        return bytes([int(byte[1], 16)]) if byte else token.encode()

    def first_piece(self, token: str) -> bytes:
        """What a token adds as the first one of a text."""
        if not self.dropped_from_first:
            return self.piece(token)
        return self.piece(token.replace(self.dropped_from_first, ""))


class PieceText:
    """Bytes in, characters out as soon as no later byte can change them.

    Holds at most three bytes. `num_stripped` of the rules is counted down as the text starts.
    """

    def __init__(self, rules: PieceRules) -> None:
        self._strip = rules.stripped.encode()
        self._num_to_strip = rules.num_stripped
        self._replace_each_byte = rules.byte_fallback
        self._pending = b""

    @property
    def started(self) -> bool:
        """Whether the text is past its start, where pieces are taken as they are."""
        return self._num_to_strip == 0

    def push(self, piece: bytes) -> str:
        while self._num_to_strip and piece:
            if piece.startswith(self._strip):
                piece = piece[len(self._strip) :]
                self._num_to_strip -= 1
            else:
                self._num_to_strip = 0
        if not self._pending:
            try:
                return piece.decode()
            except UnicodeDecodeError:
                pass
        text, self._pending = decode_certain(
            self._pending + piece, replace_each_byte=self._replace_each_byte
        )
        return text

    def flush(self) -> str:
        """What an unfinished character at the end reads as."""
        num_replaced = len(self._pending) if self._replace_each_byte else bool(self._pending)
        self._pending = b""
        return REPLACEMENT * num_replaced


def decode_certain(data: bytes, *, replace_each_byte: bool) -> tuple[str, bytes]:
    """The text of `data`, and the bytes at its end that may yet grow into a character."""
    parts: list[str] = []
    while True:
        try:
            text, num_used = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError as error:
            parts.append(data[: error.start].decode())
            parts.append(REPLACEMENT * (error.end - error.start if replace_each_byte else 1))
            data = data[error.end :]
        else:
            return "".join([*parts, text]), data[num_used:]


def _flatten(decoder: Mapping[str, object] | None) -> list[Mapping[str, object]]:
    if decoder is None:
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    inner = decoder.get("decoders")
    return [part for item in inner for part in _flatten(item)] if isinstance(inner, list) else []


def _replacement(part: Mapping[str, object]) -> tuple[str, str]:
    pattern, content = part.get("pattern"), part.get("content")
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    if not isinstance(text, str) or not text or not isinstance(content, str):
        raise StartError("The tokenizer's decoder replaces by a regular expression; only strings.")
    return text, content


def _strip(part: Mapping[str, object]) -> tuple[str, int]:
    if part.get("type") != "Strip":
        return "", 0
    content, start, stop = part.get("content"), part.get("start"), part.get("stop")
    if not isinstance(content, str) or not isinstance(start, int) or stop != 0:
        raise StartError(
            "The tokenizer's decoder strips the end of a text; that cannot be streamed."
        )
    return content, start


def _metaspace(part: Mapping[str, object]) -> PieceRules:
    mark = part.get("replacement")
    if not isinstance(mark, str) or not mark:
        raise StartError("The tokenizer's Metaspace decoder names no replacement character.")
    drops = part.get("prepend_scheme") != "never"
    return PieceRules(replacements=((mark, " "),), dropped_from_first=mark if drops else "")
