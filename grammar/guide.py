"""One sequence's place in its grammar.

A guide answers two questions at every position: which tokens may come next, and is the text
complete. It is told each token that was taken. What the grammar is written in is the matcher's
affair; which tokens are text and which end the sequence is decided here, alike for all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from lorax_serve.grammar.cache import ByteBoundedCache
from lorax_serve.grammar.compiled import LARK, LLGUIDANCE, LLGUIDANCE_CONTROL, OUTLINES_INDEX
from lorax_serve.grammar.errors import GuideRejected, InvalidGrammar, UnsupportedTokenizer
from lorax_serve.grammar.index_matcher import CompiledIndex, IndexMatcher
from lorax_serve.grammar.llguidance_matcher import LLGuidanceMatcher
from lorax_serve.grammar.llguidance_tokenizer import load_llguidance_tokenizer
from lorax_serve.grammar.parser_limits import lark_limits, parser_limits
from lorax_serve.grammar.token_sets import BitRow, TokenSets, check_row
from lorax_serve.grammar.vocabulary import load_vocabulary

DEFAULT_CACHE_BYTES = 256 * 2**20


class Matcher(Protocol):
    """A grammar being matched against text tokens only; it knows no end-of-sequence token."""

    def fill_text(self, row: BitRow) -> None:
        """Overwrite `row` with the text tokens that may follow; none after a dead end."""

    def is_accepting(self) -> bool:
        """The text so far satisfies the grammar."""

    def is_complete(self) -> bool:
        """It does, and no text may follow."""

    def consume(self, token_id: int) -> None:
        """Raises GuideRejected."""


class Guide:
    """V is the model's vocabulary size, W = ceil(V / 32). Not safe to share between threads."""

    def __init__(self, matcher: Matcher, sets: TokenSets) -> None:
        self._matcher = matcher
        self._sets = sets
        self._ended = False

    @property
    def accepts_eos(self) -> bool:
        """Whether the sequence may end here."""
        return self._ended or self._matcher.is_accepting()

    @property
    def finished(self) -> bool:
        """Whether nothing but an end-of-sequence token may follow."""
        return self._ended or self._matcher.is_complete()

    def fill_mask(self, row: BitRow) -> None:
        """Overwrite `row`, int32 [W]: bit i of word w is set when token 32 w + i is allowed.

        End-of-sequence tokens are allowed, all of them, exactly where `accepts_eos`. Other control
        tokens are where a grammar of kind LLGUIDANCE_CONTROL names them, ids at or over V never. A
        row without any bit means a dead end: the grammar still wants text, but no token of this
        model spells it, or matching it got too costly.
        Raises ValueError for a row of another shape or type.
        """
        check_row(row, self._sets.num_words)
        if self._ended:
            row[:] = self._sets.eos
            return
        self._matcher.fill_text(row)
        if self._matcher.is_accepting():
            np.bitwise_or(row, self._sets.eos, out=row)

    def advance(self, token_id: int) -> None:
        """Take one token. Raises GuideRejected for one that `fill_mask` would not allow."""
        if token_id in self._sets.eos_token_ids:
            if not self.accepts_eos:
                raise GuideRejected(f"The text is not complete, yet token {token_id} ends it.")
            self._ended = True
        elif self._ended or not self._sets.is_text(token_id):
            raise GuideRejected(f"Token {token_id} is not allowed here.")
        else:
            self._matcher.consume(token_id)


class GuideFactory:
    """Guides for one model.

    vocab_size: V, the width of the model's logits, at least one more than the highest id it may
    sample. Compiled indices are kept by digest, the least recently used dropped, in at most
    `cache_bytes`. Raises UnsupportedTokenizer.
    """

    def __init__(
        self,
        tokenizer_json: Path,
        *,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        vocabulary = load_vocabulary(tokenizer_json, eos_token_ids)
        if max(eos_token_ids) >= vocab_size:
            raise UnsupportedTokenizer(
                f"expected end-of-sequence ids below {vocab_size}, got {list(eos_token_ids)}"
            )
        self._sets = TokenSets.of(vocabulary, vocab_size)
        self._all_sets = self._sets.with_control(vocab_size)
        self._tokenizer = load_llguidance_tokenizer(
            tokenizer_json, vocabulary, vocab_size=vocab_size
        )
        self._indices: ByteBoundedCache[str, CompiledIndex] = ByteBoundedCache(cache_bytes)

    def create(self, kind: str, payload: bytes, digest: str) -> Guide:
        """A guide before the first token. `digest` must differ wherever kind or payload do.

        Raises InvalidGrammar for a payload that is not of its kind, GrammarTooComplex for one
        over the limits.
        """
        if kind in (LLGUIDANCE, LLGUIDANCE_CONTROL, LARK):
            sets = self._all_sets if kind == LLGUIDANCE_CONTROL else self._sets
            limits = lark_limits() if kind == LARK else parser_limits()
            return Guide(LLGuidanceMatcher(self._tokenizer, payload, sets, limits), sets)
        if kind == OUTLINES_INDEX:
            return Guide(IndexMatcher(self._index(payload, digest)), self._sets)
        raise InvalidGrammar("expected a grammar of a kind that the engine knows")

    def _index(self, payload: bytes, digest: str) -> CompiledIndex:
        index = self._indices.get(digest)
        if index is None:
            index = CompiledIndex(payload, self._sets)
            self._indices.put(digest, index, index.max_bytes)
        return index
