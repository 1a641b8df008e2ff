"""Sets of token ids as bit rows: bit i of 32-bit word w stands for token 32 w + i."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lorax_serve.grammar.vocabulary import TokenVocabulary

BitRow = NDArray[np.int32]  # [W], W = ceil(V / 32)


@dataclass(frozen=True, slots=True, eq=False)
class TokenSets:
    """The two kinds of token a model may sample under a grammar, V being its vocabulary size."""

    text: BitRow  # [W], tokens that write bytes
    eos: BitRow  # [W]
    eos_token_ids: frozenset[int]
    num_tokens: int  # one more than the tokenizer's highest id; may be below or above V

    @classmethod
    def of(cls, vocabulary: TokenVocabulary, vocab_size: int) -> "TokenSets":
        text_ids = (
            token_id
            for token_id, text in enumerate(vocabulary.tokens[:vocab_size])
            if text is not None
        )
        words = num_words(vocab_size)
        return cls(
            text=bit_row(text_ids, words),
            eos=bit_row(vocabulary.eos_token_ids, words),
            eos_token_ids=frozenset(vocabulary.eos_token_ids),
            num_tokens=vocabulary.num_tokens,
        )

    def with_control(self, vocab_size: int) -> "TokenSets":
        """The same where a grammar may name any token of V but those that end: `text` has them."""
        ids = (i for i in range(vocab_size) if i not in self.eos_token_ids)
        return replace(self, text=bit_row(ids, self.num_words))

    @property
    def num_words(self) -> int:
        return self.text.size

    def is_text(self, token_id: int) -> bool:
        if not 0 <= token_id < 32 * self.num_words:
            return False
        return bool(self.text[token_id // 32] >> (token_id % 32) & 1)


def num_words(num_ids: int) -> int:
    return (num_ids + 31) // 32


def bit_row(token_ids: Iterable[int], words: int) -> BitRow:
    """[words] with the bits of `token_ids` set, all of them below 32 * words."""
    flags = np.zeros(words * 32, dtype=np.bool_)
    flags[np.fromiter(token_ids, dtype=np.int64)] = True
    return np.packbits(flags, bitorder="little").view("<i4").astype(np.int32)


def check_row(row: BitRow, words: int) -> None:
    """Raises ValueError unless `row` is a writable, contiguous int32 array of `words` words."""
    if row.dtype != np.int32 or row.shape != (words,):
        raise ValueError(f"expected an int32 row of shape ({words},), got {row.dtype} {row.shape}")
    if not (row.flags.c_contiguous and row.flags.writeable):
        raise ValueError("expected a contiguous, writable row, got one that is not")
