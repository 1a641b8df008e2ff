"""A prompt as `echo` repeats it, before the answer."""

from collections.abc import Iterator, Sequence

from lorax_serve.ipc.types import TokenLogprob
from lorax_serve.server.request import Prompt
from lorax_serve.server.routes.openai_parts import shown_logprobs
from lorax_serve.server.schema.openai_replies import CompletionLogprobs
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
        self._token_ids = token_ids
        if isinstance(prompt, str):
            self.text = prompt
        else:
            detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
            self.text = "".join(map(detokenizer.push, token_ids))

    def logprobs(self, entries: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """`entries` are of the tokens after the first, of which the model says nothing."""
        first, *others = self._token_ids
        tokens, token_logprobs, top_logprobs = shown_logprobs(self._tokenizer, others, entries)
        return CompletionLogprobs(
            tokens=(self._tokenizer.token_text(first), *tokens),
            token_logprobs=(None, *token_logprobs),
            top_logprobs=(None, *top_logprobs),
            text_offset=tuple(self._offsets()),
        )

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
