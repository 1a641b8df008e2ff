"""The pump: an engine's events in, tokens with their share of the text out.

Detokenizes, looks for stop strings and says how a generation ended. Knows neither API.
"""

import enum
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from lorax_serve.ipc.messages import TokensGenerated
from lorax_serve.ipc.types import ErrorCode, FinishReason, PromptStats, TokenLogprob
from lorax_serve.server.admission import Accepted
from lorax_serve.server.engine import Engine
from lorax_serve.server.errors import ServeError
from lorax_serve.server.interleave import interleaved
from lorax_serve.server.text.text_stream import TextStream
from lorax_serve.server.text.tokenizer import Tokenizer


class End(enum.Enum):
    """Why a generation is over. An end token on the last permitted step counts as EOS."""

    EOS = "eos"
    STOP_TOKEN = "stop_token"
    STOP_STRING = "stop_string"
    LENGTH = "length"


END_OF_SEQUENCE = {
    FinishReason.EOS: End.EOS,
    FinishReason.STOP_TOKEN: End.STOP_TOKEN,
    FinishReason.LENGTH: End.LENGTH,
}


NOT_ASKED = TokenLogprob(0.0)


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """`text` is what this token released: "" while a character or a stop string is undecided."""

    id: int
    text: str
    special: bool
    silent: bool  # it ended the sequence and is no part of its text
    logprob: TokenLogprob  # NOT_ASKED unless the request asked for logprobs


@dataclass(frozen=True, slots=True)
class Finish:
    """`stop_reason` is the stop string or the stop token that matched, if one did."""

    end: End
    stop_reason: str | int | None
    text: str  # all of it


@dataclass(frozen=True, slots=True)
class Piece:
    """One engine event of one choice, read. A choice's last piece, and only that, has a finish."""

    tokens: tuple[GeneratedToken, ...]
    num_tokens: int  # generated so far, these included
    prompt: PromptStats | None  # with the first token
    finish: Finish | None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # of the prompt's next tokens
    index: int = 0  # of the choice

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Answer:
    """A generation from its first token to its end. Times are of `time.monotonic`."""

    tokens: tuple[GeneratedToken, ...]
    prompt: PromptStats | None
    finish: Finish
    first_token_at: float
    ended_at: float
    prompt_logprobs: tuple[TokenLogprob, ...] = ()  # from the second token on, if asked for

    @property
    def mean_logprob(self) -> float:
        """Of its tokens, the one that ended it included."""
        return sum(token.logprob.logprob for token in self.tokens) / max(len(self.tokens), 1)


def pieces(engine: Engine, tokenizer: Tokenizer, accepted: Accepted) -> AsyncGenerator[Piece, None]:
    """Generate every choice. Raises ServeError as the engine does, for the first that fails;
    then, or closed early, it aborts what has not ended.
    """
    indices = range(len(accepted.messages))
    return interleaved([_choice(engine, tokenizer, accepted, index) for index in indices])


async def _choice(
    engine: Engine, tokenizer: Tokenizer, accepted: Accepted, index: int
) -> AsyncGenerator[Piece, None]:
    """After a stop string has matched the engine is told to stop and no more of its events are
    read.
    """
    reader = PieceReader(tokenizer, accepted, index)
    async with aclosing(_events(engine, accepted, index)) as events:
        async for event in events:
            piece = reader.read(event)
            yield piece
            if piece.finish is not None:
                return
    raise ServeError(ErrorCode.GENERATION_ERROR, "The engine ended the request without a finish.")


async def _events(
    engine: Engine, accepted: Accepted, index: int
) -> AsyncGenerator[TokensGenerated, None]:
    """Generate; from anew where the adapter's files were replaced before the first event came."""
    message, has_begun = accepted.messages[index], False
    for is_last in (False, False, True):
        try:
            async with aclosing(engine.generate(message)) as events:
                async for event in events:
                    has_begun = True
                    yield event
            return
        except ServeError as error:
            if error.code is not ErrorCode.ADAPTER_CHANGED or has_begun or is_last:
                raise
        message = await accepted.renew(message)


async def collect(source: AsyncGenerator[Piece, None], num_choices: int) -> tuple[Answer, ...]:
    """Run every choice to its end; by index."""
    collectors = [_Collector() for _ in range(num_choices)]
    async with aclosing(source):
        async for piece in source:
            collectors[piece.index].add(piece)
    return tuple(collector.answer() for collector in collectors)


def best_first(answers: Sequence[Answer]) -> list[Answer]:
    """By mean logprob; of equal ones the earlier first. All asked for logprobs."""
    return sorted(answers, key=lambda answer: -answer.mean_logprob)


class _Collector:
    """Puts one choice's pieces together."""

    def __init__(self) -> None:
        self._tokens: list[GeneratedToken] = []
        self._prompt_logprobs: list[TokenLogprob] = []
        self._prompt: PromptStats | None = None
        self._first_token_at: float | None = None
        self._finish: Finish | None = None
        self._ended_at = 0.0

    def add(self, piece: Piece) -> None:
        if piece.prompt is not None:
            self._prompt = piece.prompt
        self._tokens += piece.tokens
        self._prompt_logprobs += piece.prompt_logprobs
        self._ended_at = time.monotonic()
        if self._first_token_at is None and (piece.tokens or piece.finish):
            self._first_token_at = self._ended_at
        self._finish = piece.finish

    def answer(self) -> Answer:
        if self._finish is None or self._first_token_at is None:
            raise ServeError(ErrorCode.GENERATION_ERROR, "The request ended without an answer.")
        return Answer(
            tuple(self._tokens),
            self._prompt,
            self._finish,
            self._first_token_at,
            self._ended_at,
            tuple(self._prompt_logprobs),
        )


class PieceReader:
    """Reads one choice's events in order."""

    def __init__(self, tokenizer: Tokenizer, accepted: Accepted, index: int = 0) -> None:
        self._tokenizer = tokenizer
        self._index = index
        self._only_prompt = accepted.only_prompt
        self._keep_stop = accepted.keep_stop_string
        self._text = TextStream(
            tokenizer,
            accepted.stop_strings,
            keep_stop_string=accepted.keep_stop_string,
            min_tokens=accepted.messages[index].stop.min_new_tokens,
            prompt_ids=accepted.messages[index].prompt_token_ids,
            skip_special_tokens=accepted.skip_special_tokens,
        )
        self._num_tokens = 0

    def read(self, event: TokensGenerated) -> Piece:
        scores = tuple(event.prompt_logprobs or ())
        if self._only_prompt:
            finish = Finish(End.LENGTH, None, "") if event.token_ids else None
            return Piece((), 0, event.prompt, finish, scores, self._index)
        tokens, finish = self._read_tokens(event)
        return Piece(tuple(tokens), self._num_tokens, event.prompt, finish, scores, self._index)

    def _read_tokens(self, event: TokensGenerated) -> tuple[list[GeneratedToken], Finish | None]:
        tokens: list[GeneratedToken] = []
        finish: Finish | None = None
        num_silent = 1 if self._ends_silently(event.finish_reason) else 0
        num_spoken = len(event.token_ids) - num_silent
        for index in range(len(event.token_ids)):
            tokens.append(self._token(event, index, silent=index >= num_spoken))
            if self._text.stopped is not None:
                finish = Finish(End.STOP_STRING, self._text.stopped, self._text.text)
                break
        self._num_tokens += len(tokens)
        if finish is None and event.finish_reason is not None:
            finish = self._finish(tokens, event.finish_reason)
        return tokens, finish

    def _token(self, event: TokensGenerated, index: int, *, silent: bool) -> GeneratedToken:
        token_id = event.token_ids[index]
        return GeneratedToken(
            id=token_id,
            text="" if silent else self._text.push(token_id).text,
            special=silent or self._tokenizer.is_special(token_id),
            silent=silent,
            logprob=event.logprobs[index] if event.logprobs else NOT_ASKED,
        )

    def _ends_silently(self, reason: FinishReason | None) -> bool:
        """Whether the last token of an event ends the sequence without belonging to its text."""
        if reason is FinishReason.STOP_TOKEN:
            return not self._keep_stop
        return reason is FinishReason.EOS

    def _finish(self, tokens: list[GeneratedToken], reason: FinishReason) -> Finish:
        """Ends the text; what was held back goes to the last token that has text to show."""
        if not tokens:
            raise ServeError(ErrorCode.GENERATION_ERROR, "The engine ended without a token.")
        tail = self._text.finish()
        owner = len(tokens) - (2 if tokens[-1].silent and len(tokens) > 1 else 1)
        if tail:
            tokens[owner] = replace(tokens[owner], text=tokens[owner].text + tail)
        stop_reason = tokens[-1].id if reason is FinishReason.STOP_TOKEN else None
        return Finish(END_OF_SEQUENCE[reason], stop_reason, self._text.text)
