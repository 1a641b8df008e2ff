"""Random walks through guides: whatever a model could sample, sooner or later."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from lorax_serve.grammar.byte_matcher import byte_tokenizer
from lorax_serve.grammar.compiled import CompiledGrammar
from lorax_serve.grammar.guide import Guide
from lorax_serve.grammar.vocabulary import TokenVocabulary


def new_row(vocab_size: int) -> NDArray[np.int32]:
    return np.full((vocab_size + 31) // 32, -1, dtype=np.int32)  # stale bits must be cleared


def ids_of(row: NDArray[np.int32]) -> list[int]:
    """The token ids whose bits are set, by the definition: bit i of word w is 32 w + i."""
    return [
        32 * word + bit
        for word, value in enumerate(row.tolist())
        if value
        for bit in range(32)
        if value >> bit & 1
    ]


def allowed_ids(guide: Guide, vocab_size: int) -> list[int]:
    row = new_row(vocab_size)
    guide.fill_mask(row)
    return ids_of(row)


@dataclass(frozen=True)
class Walker:
    """Samples until the end of sequence; after `hurry` tokens it prefers to end, close or quote."""

    vocabulary: TokenVocabulary
    vocab_size: int
    hurry: int = 60
    limit: int = 3000

    def steps(self, guide: Guide, seed: int) -> Iterator[tuple[list[int], int]]:
        """(allowed ids, the one taken) at every position."""
        rng = random.Random(seed)
        for position in range(self.limit):
            allowed = allowed_ids(guide, self.vocab_size)
            assert allowed, "a dead end: nothing is allowed, not even the end"
            token_id = self._choose(rng, allowed, hurried=position >= self.hurry)
            guide.advance(token_id)
            yield allowed, token_id
            if token_id in self.vocabulary.eos_token_ids:
                return
        raise AssertionError(f"no end within {self.limit} tokens")

    def text(self, guide: Guide, seed: int) -> bytes:
        taken = [token_id for _, token_id in self.steps(guide, seed)]
        return b"".join(self.vocabulary.tokens[token_id] or b"" for token_id in taken)

    def _choose(self, rng: random.Random, allowed: list[int], *, hurried: bool) -> int:
        ending = [i for i in allowed if i in self.vocabulary.eos_token_ids]
        if ending and (hurried or rng.random() < 0.3):
            return rng.choice(ending)
        if hurried:
            for closing in (b'"', b"}", b"]", b":", b","):
                for token_id in allowed:
                    if self.vocabulary.tokens[token_id] == closing:
                        return token_id
        return rng.choice([i for i in allowed if i not in ending] or ending)


class BytesMatcher:
    """llguidance itself, without limits of ours: any text can be offered to a grammar exactly."""

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._tokenizer = byte_tokenizer()
        self._grammar = grammar.payload.decode()

    def accepts(self, text: bytes) -> bool:
        matcher = LLMatcher(self._tokenizer, self._grammar, log_level=0)
        return matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting()
