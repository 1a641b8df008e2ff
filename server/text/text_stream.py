"""One generation's text as it grows: tokens in, certain text out, ended by a stop string."""

from collections.abc import Sequence
from dataclasses import dataclass

from lorax_serve.server.text.detokenizer import IncrementalDetokenizer
from lorax_serve.server.text.stop_strings import StopMatcher
from lorax_serve.server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str  # to be sent now; may be empty
    stopped: str | None = None  # the stop string that has ended the text


class TextStream:
    """Joined, the texts of all deltas and of `finish` are `text`.

    `keep_stop_string`: the native API leaves the stop string at the end of the text, the OpenAI
    API cuts it off, for which text is held back while it may yet become one. `min_tokens`: a stop
    string is looked for in what comes after so many tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        *,
        keep_stop_string: bool,
        min_tokens: int = 0,
        prompt_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
    ) -> None:
        self._detokenizer = IncrementalDetokenizer(
            tokenizer, skip_special_tokens=skip_special_tokens, prompt_ids=prompt_ids
        )
        self._matcher = StopMatcher(stop, keep=keep_stop_string)
        self._num_unmatched = min_tokens
        self._parts: list[str] = []
        self._stopped: str | None = None

    @property
    def text(self) -> str:
        """Everything handed out so far."""
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._stopped

    def push(self, token_id: int) -> TextDelta:
        """After a stop string, further tokens add nothing."""
        text = self._detokenizer.push(token_id)
        if self._num_unmatched:
            self._num_unmatched -= 1
            return TextDelta(self._hand_out(text))
        return self._advance(text)

    def finish(self) -> str:
        """No more tokens: the text held back, unless a stop string has ended the text."""
        ending = self._advance(self._detokenizer.flush()).text
        return ending + self._hand_out(self._matcher.flush())

    def _advance(self, text: str) -> TextDelta:
        result = self._matcher.push(text)
        self._stopped = self._stopped or result.matched
        return TextDelta(self._hand_out(result.emit), self._stopped)

    def _hand_out(self, text: str) -> str:
        self._parts.append(text)
        return text
