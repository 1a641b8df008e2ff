"""A prompt as `echo` repeats it, before the answer.

Of a long one everything here is long work: for a thread.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain

from lorax_serve.ipc.types import TokenLogprob
from lorax_serve.server.request import Prompt
from lorax_serve.server.routes.token_scores import TokenScores
from lorax_serve.server.text.detokenizer import IncrementalDetokenizer
from lorax_serve.server.text.tokenizer import Tokenizer


class EchoedPrompt:
    """Text is repeated as it was sent. Of token ids it is what they spell; a character that they
    leave unfinished belongs to the answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Prompt,
        token_ids: Sequence[int],
        *,
        skip_special_tokens: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._token_ids = token_ids
        self._skip_special_tokens = skip_special_tokens

    @property
    def num_tokens(self) -> int:
        return len(self._token_ids)

    @cached_property
    def text(self) -> str:
        if isinstance(self._prompt, str):
            return self._prompt
        detokenizer = IncrementalDetokenizer(
            self._tokenizer, skip_special_tokens=self._skip_special_tokens
        )
        return "".join(map(detokenizer.push, self._token_ids))

    def add_to(self, scores: TokenScores, entries: Sequence[TokenLogprob]) -> None:
        """`entries` are of the tokens after the first, of which the model says nothing."""
        scores.add(self._token_ids, chain((None,), entries), self._offsets())

    def _offsets(self) -> Iterator[int]:
        """Where each token begins. Special tokens may be in the text, or only around it."""
        detokenizer = IncrementalDetokenizer(self._tokenizer)
        offset = 0
        for token_id in self._token_ids:
            yield offset
            if not self._tokenizer.is_special(token_id):
                offset += len(detokenizer.push(token_id))
            elif self.text.startswith(spelling := self._tokenizer.token_text(token_id), offset):
                offset += len(spelling)
