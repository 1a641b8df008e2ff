"""Token ids in, text out, one token at a time.

The texts of all pushes and of the flush, joined, are what `Tokenizer.decode` makes of all the ids;
each push costs the same however long the text is.
"""

from collections.abc import Sequence
from typing import Protocol

from lorax_serve.server.text.pieces import PieceRules, PieceText


class Pieces(Protocol):
    """What a detokenizer asks of a tokenizer."""

    @property
    def rules(self) -> PieceRules: ...
    def is_visible(self, token_id: int, *, skip_special_tokens: bool) -> bool: ...
    def token_bytes(self, token_id: int) -> bytes: ...
    def first_token_bytes(self, token_id: int) -> bytes: ...


class IncrementalDetokenizer:
    """The text of one generation.

    `prompt_ids` are the ids the generation continues: a space its first token begins with is kept
    when the text had begun before, and a character the prompt left unfinished belongs to the
    generation. Ids without a token (a padded embedding has some) are passed over.
    """

    def __init__(
        self,
        tokenizer: Pieces,
        *,
        skip_special_tokens: bool = True,
        prompt_ids: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._text = PieceText(tokenizer.rules)
        self._begun = False
        self._continue(prompt_ids)

    def push(self, token_id: int) -> str:
        """Text that has become certain: whole characters, "" while one is incomplete."""
        if not self._is_visible(token_id):
            return ""
        if self._begun:
            return self._text.push(self._tokenizer.token_bytes(token_id))
        self._begun = True
        return self._text.push(self._tokenizer.first_token_bytes(token_id))

    def flush(self) -> str:
        """The end of the text: U+FFFD in place of an unfinished character, or ""."""
        return self._text.flush()

    def _is_visible(self, token_id: int) -> bool:
        return self._tokenizer.is_visible(token_id, skip_special_tokens=self._skip_special_tokens)

    def _continue(self, prompt_ids: Sequence[int]) -> None:
        """Stand where the prompt ends, reading only its first and its last few tokens."""
        for token_id in prompt_ids:
            self.push(token_id)
            if self._begun and self._text.started:
                self._text.push(self._tail(prompt_ids))
                return

    def _tail(self, prompt_ids: Sequence[int]) -> bytes:
        """At least the last three bytes, all that an unfinished character can hold."""
        tail = b""
        for token_id in reversed(prompt_ids):
            if self._is_visible(token_id):
                tail = self._tokenizer.token_bytes(token_id) + tail
            if len(tail) >= 3:
                break
        return tail
