"""A JSON schema or a Lark grammar being matched, by llguidance: a lazy lexer and an Earley parser.

It builds no automaton beforehand, so a matcher costs about a millisecond and each mask some tens
of microseconds, within the fuel of `parser_limits`.
"""

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from lorax_serve.grammar.errors import GrammarTooComplex, GuideRejected
from lorax_serve.grammar.token_sets import BitRow, TokenSets, num_words


class LLGuidanceMatcher:
    """Raises GrammarTooComplex where the engine's vocabulary takes it over the limits."""

    def __init__(
        self, tokenizer: LLTokenizer, payload: bytes, sets: TokenSets, limits: LLParserLimits
    ) -> None:
        # Bytes that are not UTF-8 become text that is not JSON either.
        grammar = payload.decode(errors="replace")
        self._matcher = LLMatcher(tokenizer, grammar, limits=limits, log_level=0)
        if self._matcher.is_error():
            raise GrammarTooComplex("The grammar cannot be enforced within the limits.")
        self._text = sets.text
        # llguidance writes all its tokenizer's ids, which may be more than the model's.
        self._all_tokens: BitRow = np.zeros(num_words(tokenizer.vocab_size), dtype=np.int32)

    def fill_text(self, row: BitRow) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._all_tokens.ctypes.data, self._all_tokens.nbytes)
        if self._matcher.is_error():  # it then writes a mask that means nothing
            row[:] = 0
        else:
            np.bitwise_and(self._all_tokens[: row.size], self._text, out=row)

    def is_accepting(self) -> bool:
        return self._matcher.is_accepting() and not self._matcher.is_error()

    def is_complete(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def consume(self, token_id: int) -> None:
        if self._matcher.is_error():
            raise GuideRejected("Matching the grammar got too costly.")
        # Once stopped, it calls any further token an error but stays in its complete state.
        if self._matcher.is_stopped() or not self._matcher.consume_token(token_id):
            raise GuideRejected(f"Token {token_id} is not allowed by the grammar here.")
