"""Tokens with their logprobs, as completions list them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lorax_serve.ipc.types import TokenLogprob
from lorax_serve.server.generation import GeneratedToken
from lorax_serve.server.long_lists import json_list
from lorax_serve.server.schema.openai_replies import CompletionLogprobs
from lorax_serve.server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Parallel lists, one item per token, as those of `CompletionLogprobs`."""

    tokens: list[str]
    logprobs: list[float | None]
    tops: list[dict[str, float] | None]
    offsets: list[int]

    def __add__(self, other: "TokenScores") -> "TokenScores":
        return TokenScores(
            self.tokens + other.tokens,
            self.logprobs + other.logprobs,
            self.tops + other.tops,
            self.offsets + other.offsets,
        )

    def shown(self) -> CompletionLogprobs:
        return CompletionLogprobs(
            json_list(self.tokens),
            json_list(self.logprobs),
            json_list(self.tops),
            json_list(self.offsets),
        )


def answer_scores(
    tokenizer: Tokenizer, tokens: Iterable[GeneratedToken], offset: int
) -> TokenScores:
    """`offset`: characters of the choice's text before these tokens. One that only ended the answer
    is no part of it.
    """
    shown = [token for token in tokens if not token.silent]
    offsets = []
    for token in shown:
        offsets.append(offset)
        offset += len(token.text)
    ids, entries = [token.id for token in shown], [token.logprob for token in shown]
    return token_scores(tokenizer, ids, entries, offsets)


def token_scores(
    tokenizer: Tokenizer,
    token_ids: Sequence[int],
    entries: Sequence[TokenLogprob | None],
    offsets: list[int],
) -> TokenScores:
    """What is shown of each token: its text, its logprob, and the most likely ones and its own.
    None: the model says nothing of that one.
    """
    texts = [tokenizer.token_text(token_id) for token_id in token_ids]
    return TokenScores(
        texts,
        [None if entry is None else entry.logprob for entry in entries],
        [
            None if entry is None else _top(tokenizer, text, entry)
            for text, entry in zip(texts, entries, strict=True)
        ],
        offsets,
    )


def _top(tokenizer: Tokenizer, text: str, entry: TokenLogprob) -> dict[str, float]:
    return {text: entry.logprob} | {tokenizer.token_text(i): p for i, p in entry.top}
