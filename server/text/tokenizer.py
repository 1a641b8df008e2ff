"""Text to token ids and back, as the Hugging Face fast tokenizers do it, without transformers."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import tokenizers

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.text.detokenizer import IncrementalDetokenizer
from lorax_serve.server.text.fast_tokenizer import component_state, load_fast_tokenizer
from lorax_serve.server.text.pieces import PieceRules
from lorax_serve.server.text.tokenizer_config import TokenizerConfig

# Shorter texts are encoded on the spot: a millisecond, less than the way to a thread and back
# costs a busy loop.
INLINE_BYTES = 1024
NUM_ENCODING_THREADS = 2

S = TypeVar("S", bound=Sized)


class TokenPiece(msgspec.Struct, frozen=True):
    """One token of a text: the vocabulary's piece, and the characters it stands for."""

    id: int
    text: str
    start: int  # offset of the first character
    stop: int  # one past the last; like `start` 0 for a token that is not of the text


class TokenPieces:
    """The pieces of a text, made when they are asked for.

    `tokens` and `offsets` of tokenizers make whole lists under the interpreter lock, a tenth of a
    second for a text of a megabyte; taken one by one, others get their turns between them.
    """

    def __init__(self, found: tokenizers.Encoding, tokenizer: "Tokenizer") -> None:
        self._found = found
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[TokenPiece]:
        ids: list[int] = self._found.ids
        names = map(self._tokenizer.vocabulary_piece, ids)
        if self._tokenizer.keeps_unknown:
            names = self._found.tokens
        for place, (token_id, name) in enumerate(zip(ids, names, strict=True)):
            start, stop = self._found.token_to_chars(place) or (0, 0)
            yield TokenPiece(token_id, name, start, stop)


class Tokenizer:
    """One model's tokenizer. Immutable after the start, so threads may share it."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, config: TokenizerConfig) -> None:
        """`tokenizer` as `config` wants it: `Tokenizer.from_folder` is the usual way in."""
        self._tokenizer = tokenizer
        self._config = config
        self._rules = PieceRules.parse(component_state(tokenizer.decoder))
        # Only this model writes a piece it does not know as it stands in the text.
        self.keeps_unknown = isinstance(tokenizer.model, tokenizers.models.Unigram)
        self._tokens = _tokens_by_id(tokenizer)
        self._pieces = [b"" if t is None else self._rules.piece(t) for t in self._tokens]
        self._special_ids = frozenset(
            token_id for token_id, t in tokenizer.get_added_tokens_decoder().items() if t.special
        )
        self._longest_token_bytes = max(map(len, self._pieces), default=0) or 1
        self._threads = ThreadPoolExecutor(NUM_ENCODING_THREADS, thread_name_prefix="encode")

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Raises StartError when the folder's tokenizer is missing or cannot be used."""
        config = TokenizerConfig.from_folder(folder)
        return cls(load_fast_tokenizer(folder, config), config)

    @property
    def rules(self) -> PieceRules:
        return self._rules

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that has a token."""
        return len(self._tokens)

    @property
    def bos_token(self) -> str | None:
        return self._special_token("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self._special_token("eos_token")

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Raises ServeError INVALID_REQUEST for text that is not Unicode (lone surrogates)."""
        _utf8_length(text)
        return self._encode(text, add_special_tokens)

    async def encode_bounded(
        self, text: str, *, add_special_tokens: bool, max_tokens: int
    ) -> list[int]:
        """At most `max_tokens` ids; the event loop stays free however long the text is.

        A text too long even if every token were the vocabulary's longest is refused unread. (That
        presumes tokens that stand for their own text, as byte-level and byte-fallback ones do.)

        Raises:
            ServeError: CONTEXT_LENGTH_EXCEEDED, or INVALID_REQUEST as in `encode`.
        """
        return await self._bounded(self._encode, text, add_special_tokens, max_tokens)

    async def pieces_bounded(
        self, text: str, *, add_special_tokens: bool, max_tokens: int
    ) -> "TokenPieces":
        """As `encode_bounded`, with what each token stands for."""
        return await self._bounded(self._encode_pieces, text, add_special_tokens, max_tokens)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool) -> str:
        """The text of a whole sequence; ids without a token are passed over."""
        detokenizer = IncrementalDetokenizer(self, skip_special_tokens=skip_special_tokens)
        return "".join([*map(detokenizer.push, ids), detokenizer.flush()])

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text that has begun; b"" for an id without a token."""
        return self._pieces[token_id] if 0 <= token_id < len(self._pieces) else b""

    def first_token_bytes(self, token_id: int) -> bytes:
        """What the token adds as the first of a text; b"" for an id without a token."""
        token = self._tokens[token_id] if 0 <= token_id < len(self._tokens) else None
        return b"" if token is None else self._rules.first_piece(token)

    def vocabulary_piece(self, token_id: int) -> str:
        """How the vocabulary writes the token; "" for an id without one."""
        token = self._tokens[token_id] if 0 <= token_id < len(self._tokens) else None
        return "" if token is None else token

    def token_text(self, token_id: int) -> str:
        """One token alone, special ones included; U+FFFD where it holds part of a character."""
        return self.token_bytes(token_id).decode(errors="replace")

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def is_visible(self, token_id: int, *, skip_special_tokens: bool) -> bool:
        """Whether the id takes part in a decoded text."""
        if not 0 <= token_id < len(self._tokens) or self._tokens[token_id] is None:
            return False
        return not (skip_special_tokens and token_id in self._special_ids)

    def close(self) -> None:
        """Let the encoding threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _special_token(self, name: str) -> str | None:
        token = self._config.special_tokens.get(name)
        return token.content if token else None

    async def _bounded(
        self, encode: Callable[[str, bool], S], text: str, add_special_tokens: bool, max_tokens: int
    ) -> S:
        num_bytes = _utf8_length(text)
        at_least = -(-num_bytes // self._longest_token_bytes)
        if at_least > max_tokens:
            raise _too_long(f"at least {at_least}", max_tokens)
        if num_bytes <= INLINE_BYTES:
            encoded = encode(text, add_special_tokens)
        else:
            loop = asyncio.get_running_loop()
            encoded = await loop.run_in_executor(self._threads, encode, text, add_special_tokens)
        if len(encoded) > max_tokens:
            raise _too_long(str(len(encoded)), max_tokens)
        return encoded

    def _encode_pieces(self, text: str, add_special_tokens: bool) -> "TokenPieces":
        (found,) = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        return TokenPieces(found, self)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        # `encode` holds the interpreter lock while it works; this one lets it go, and leaves out
        # the character offsets nobody asks for.
        encodings = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encodings[0].ids
        return ids


def _tokens_by_id(tokenizer: tokenizers.Tokenizer) -> list[str | None]:
    by_id = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    by_id.update({i: token.content for i, token in tokenizer.get_added_tokens_decoder().items()})
    return [by_id.get(token_id) for token_id in range(max(by_id, default=-1) + 1)]


def _utf8_length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ServeError(
            ErrorCode.INVALID_REQUEST, "The text holds a lone surrogate; it must be valid Unicode."
        ) from None


def _too_long(num_tokens: str, max_tokens: int) -> ServeError:
    return ServeError(
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        f"The prompt is {num_tokens} tokens long; at most {max_tokens} fit.",
    )
