"""Tokens with their logprobs, as completions list them."""

from collections.abc import Callable, Iterable

from lorax_serve.ipc.types import TokenLogprob
from lorax_serve.server.generation import GeneratedToken
from lorax_serve.server.long_lists import JsonList, slices
from lorax_serve.server.schema.openai_replies import CompletionLogprobs


class TokenScores:
    """A `CompletionLogprobs` that grows, written as it does."""

    def __init__(self, name: Callable[[int], str]) -> None:
        """`name`: what a token is called."""
        self.num_tokens = 0
        self._name = name
        self._tokens, self._logprobs = JsonList(), JsonList()
        self._tops, self._offsets = JsonList(), JsonList()

    def add_answer(self, tokens: Iterable[GeneratedToken], offset: int) -> None:
        """`offset`: characters of the choice's text before these. A token that only ended the
        answer is no part of it.
        """
        shown = [token for token in tokens if not token.silent]
        offsets = []
        for token in shown:
            offsets.append(offset)
            offset += len(token.text)
        self.add((token.id for token in shown), (token.logprob for token in shown), offsets)

    def add(
        self,
        token_ids: Iterable[int],
        entries: Iterable[TokenLogprob | None],
        offsets: Iterable[int],
    ) -> None:
        """Of as many tokens each. Entry None: the model says nothing of that one."""
        parts = (slices(token_ids), slices(entries), slices(offsets))
        for some_ids, some_entries, some_offsets in zip(*parts, strict=True):
            self._add(some_ids, some_entries, some_offsets)

    def shown(self) -> CompletionLogprobs:
        return CompletionLogprobs(
            self._tokens.raw(), self._logprobs.raw(), self._tops.raw(), self._offsets.raw()
        )

    def _add(
        self, token_ids: list[int], entries: list[TokenLogprob | None], offsets: list[int]
    ) -> None:
        """What is shown of each: its name, its logprob, and the most likely ones and its own."""
        names = [self._name(token_id) for token_id in token_ids]
        self.num_tokens += len(names)
        self._tokens.extend(names)
        self._logprobs.extend([None if entry is None else entry.logprob for entry in entries])
        self._tops.extend(
            [
                None if entry is None else self._top(name, entry)
                for name, entry in zip(names, entries, strict=True)
            ]
        )
        self._offsets.extend(offsets)

    def _top(self, name: str, entry: TokenLogprob) -> dict[str, float]:
        return {name: entry.logprob} | {self._name(i): p for i, p in entry.top}
