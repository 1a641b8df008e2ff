"""A pattern being matched, by an outlines_core index: state and token to next state, all known."""

import numpy as np
from outlines_core import Guide, Index

from lorax_serve.grammar.cache import ByteBoundedCache
from lorax_serve.grammar.errors import GuideRejected, InvalidGrammar
from lorax_serve.grammar.index_vocabulary import start_mark_id
from lorax_serve.grammar.token_sets import BitRow, TokenSets, num_words

ROW_CACHE_BYTES = 4 * 2**20
# Its hash maps in memory, per byte of the binary form (two to three were measured).
MEMORY_PER_BYTE = 4


class CompiledIndex:
    """An index shared by all sequences with the same pattern, with the masks of recent states.

    Writing the mask of a state walks a map of all its tokens, up to 0.3 ms; a pattern has few
    states that are visited again and again. Raises InvalidGrammar for bytes that are no index.
    """

    def __init__(self, payload: bytes, sets: TokenSets) -> None:
        try:
            self._index = Index.from_binary(payload)
        except ValueError as error:
            raise InvalidGrammar("The compiled pattern cannot be read.") from error
        self._sets = sets
        self._rows: ByteBoundedCache[int, BitRow] = ByteBoundedCache(ROW_CACHE_BYTES)
        self.max_bytes = MEMORY_PER_BYTE * len(payload) + ROW_CACHE_BYTES

    def start(self) -> Guide:
        """An outlines_core guide at the start of the text."""
        guide = Guide(self._index)
        guide.advance(start_mark_id(self._sets.num_tokens), False)
        return guide

    def text_row(self, guide: Guide) -> BitRow:
        """[W], the text tokens that may follow in the guide's state. Not to be written to."""
        state = guide.get_state()
        row = self._rows.get(state)
        if row is None:
            row = self._written(guide)
            self._rows.put(state, row, row.nbytes)
        return row

    def _written(self, guide: Guide) -> BitRow:
        # The index asks for room for its own vocabulary, which may exceed the model's.
        words = max(self._sets.num_words, num_words(self._sets.num_tokens + 1))
        row: BitRow = np.zeros(words, dtype=np.int32)
        guide.write_mask_into(row.ctypes.data, row.size, row.itemsize)
        return row[: self._sets.num_words] & self._sets.text


class IndexMatcher:
    def __init__(self, index: CompiledIndex) -> None:
        self._index = index
        self._guide = index.start()

    def fill_text(self, row: BitRow) -> None:
        row[:] = self._index.text_row(self._guide)

    def is_accepting(self) -> bool:
        return bool(self._guide.is_finished())

    def is_complete(self) -> bool:
        return self.is_accepting() and not self._index.text_row(self._guide).any()

    def consume(self, token_id: int) -> None:
        try:
            self._guide.advance(token_id, False)
        except ValueError as error:
            raise GuideRejected(f"Token {token_id} is not allowed by the pattern here.") from error
