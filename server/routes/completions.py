"""POST /v1/completions."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing

import msgspec
from aiohttp import web
from msgspec import UnsetType
from msgspec.structs import asdict, replace

from lorax_serve.ipc.types import TokenLogprob
from lorax_serve.server.admission import Accepted
from lorax_serve.server.error_replies import Failure
from lorax_serve.server.generation import Answer, Piece, best_first
from lorax_serve.server.http_body import read_json
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.routes.echoed_prompt import EchoedPrompt
from lorax_serve.server.routes.exchange import generate
from lorax_serve.server.routes.openai_parts import (
    FINISH_REASON,
    TokenIdsShown,
    UsageReport,
    identity,
    token_names,
)
from lorax_serve.server.routes.token_scores import TokenScores
from lorax_serve.server.schema.openai import (
    COMPLETION,
    CompletionBody,
    completion_prompts,
    completion_request,
)
from lorax_serve.server.schema.openai_replies import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
)
from lorax_serve.server.service import Service
from lorax_serve.server.sse import DONE
from lorax_serve.server.text.tokenizer import Tokenizer
from lorax_serve.server.threads import run_sized


async def completions(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    body, ignored = COMPLETION.parse(await read_json(request, service.limits))
    return await generate(
        request,
        completion_request(body),
        lambda accepted: CompletionView(service, accepted, body),
        streams=body.stream,
        ignored=ignored,
    )


class CompletionView:
    """One request's reply, or its chunks: echoes, texts, finishes, perhaps the usage.

    The choices of a prompt come before those of the next one: index = prompt x n + choice.
    """

    def __init__(self, service: Service, accepted: Accepted, body: CompletionBody) -> None:
        self._name = token_names(service.tokenizer, as_ids=body.return_tokens_as_token_ids)
        self._lists_logprobs = body.logprobs is not None
        self._identity = identity(service, accepted, prefix="cmpl-")
        self._usage = UsageReport(body.stream_options, accepted)
        self._num_choices = body.n  # of each prompt
        self._num_branches = accepted.num_branches
        self._ids = TokenIdsShown(accepted, shown=body.return_token_ids)
        self._echoes = _echoes(service.tokenizer, accepted, body) if body.echo else ()
        self._scores: list[list[TokenLogprob]] = [[] for _ in accepted.prompts_token_ids]
        self._num_characters: dict[int, int] = {}  # by choice, of those that have begun

    def reply(self, answers: Sequence[Answer]) -> bytes:
        self._usage.note_all(answers)
        choices: list[CompletionChoice] = []
        for number in range(len(answers) // self._num_branches):
            branches = answers[number * self._num_branches :][: self._num_branches]
            scores = branches[0].prompt_logprobs
            shown = branches
            if self._num_branches > self._num_choices:
                shown = best_first(branches)[: self._num_choices]
            for answer in shown:
                choices.append(self._choice(len(choices), number, answer, scores))
        completion = self._completion(choices, self._usage.total())
        return msgspec.json.encode(completion)

    async def frames(self, source: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(source):
            async for piece in source:
                for frame in await run_sized(self._num_echoed(piece), self._encoded, piece):
                    yield frame
        if self._usage.at_end:
            yield msgspec.json.encode(self._completion((), self._usage.total()))
        yield DONE

    def error_frame(self, failure: Failure) -> bytes:
        return failure.openai_body()

    def _choice(
        self, index: int, number: int, answer: Answer, scores: Sequence[TokenLogprob]
    ) -> CompletionChoice:
        """`number`: of the prompt, whose logprobs the scores are."""
        listed = self._no_scores()
        text = self._opening(number, scores, listed)
        if listed is not None:
            listed.add_answer(answer.tokens, len(text))
        return CompletionChoice(
            index=index,
            text=text + answer.finish.text,
            logprobs=_shown(listed),
            finish_reason=FINISH_REASON[answer.finish.end],
            stop_reason=answer.finish.stop_reason,
            token_ids=self._ids.of(answer.tokens),
            prompt_token_ids=self._ids.of_prompt(number),
        )

    def _num_echoed(self, piece: Piece) -> int:
        """Prompt tokens that are shown with this piece, at most."""
        if not self._echoes or piece.index in self._num_characters:
            return 0
        return self._echoes[piece.index // self._num_branches].num_tokens

    def _encoded(self, piece: Piece) -> list[bytes]:
        return [msgspec.json.encode(chunk) for chunk in self._chunks(piece)]

    def _chunks(self, piece: Piece) -> Iterator[Completion]:
        """Nothing is best of anything here: each branch is a choice."""
        index, number = piece.index, piece.index // self._num_branches
        self._usage.note(index, piece.num_tokens, piece.prompt)
        self._scores[number] += piece.prompt_logprobs
        usage = self._usage.so_far()
        begins = index not in self._num_characters
        choices = list(self._chunk_choices(piece))
        if choices and self._ids.are_wanted:
            if begins:
                choices[0] = replace(choices[0], prompt_token_ids=self._ids.of_prompt(number))
            answer = 1 if begins and self._echoes else 0
            choices[answer] = replace(choices[answer], token_ids=self._ids.of(piece.tokens))
        for choice in choices:
            yield self._completion((choice,), usage)

    def _chunk_choices(self, piece: Piece) -> Iterator[CompletionChoice]:
        """The prompt if it is echoed, before the first; what the tokens say; the finish."""
        index, number = piece.index, piece.index // self._num_branches
        if index not in self._num_characters and (piece.tokens or piece.finish):
            echoed = self._no_scores()
            text = self._opening(number, self._scores[number], echoed)
            self._num_characters[index] = len(text)
            if self._echoes:
                yield CompletionChoice(index=index, text=text, logprobs=_shown(echoed))
        if piece.tokens:
            listed = self._no_scores()
            if listed is not None:
                listed.add_answer(piece.tokens, self._num_characters[index])
            self._num_characters[index] += len(piece.text)
            has_scores = listed is not None and listed.num_tokens > 0
            if piece.text or has_scores or (self._ids.are_wanted and piece.finish is None):
                yield CompletionChoice(index=index, text=piece.text, logprobs=_shown(listed))
        if piece.finish is not None:
            yield CompletionChoice(
                index=index,
                text="",
                finish_reason=FINISH_REASON[piece.finish.end],
                stop_reason=piece.finish.stop_reason,
            )

    def _completion(
        self, choices: Iterable[CompletionChoice], usage: Usage | UnsetType | None
    ) -> Completion:
        return Completion(**asdict(self._identity), choices=tuple(choices), usage=usage)

    def _opening(
        self, number: int, entries: Sequence[TokenLogprob], scores: TokenScores | None
    ) -> str:
        """What a choice begins with, which `scores` begin with too: the prompt, if it is echoed."""
        if not self._echoes:
            return ""
        echo = self._echoes[number]
        if scores is not None:
            echo.add_to(scores, entries)
        return echo.text

    def _no_scores(self) -> TokenScores | None:
        """None where logprobs are not listed."""
        return TokenScores(self._name) if self._lists_logprobs else None


def _echoes(
    tokenizer: Tokenizer, accepted: Accepted, body: CompletionBody
) -> tuple[EchoedPrompt, ...]:
    prompts = zip(completion_prompts(body.prompt), accepted.prompts_token_ids, strict=True)
    return tuple(
        EchoedPrompt(tokenizer, prompt, ids, skip_special_tokens=body.skip_special_tokens)
        for prompt, ids in prompts
    )


def _shown(scores: TokenScores | None) -> CompletionLogprobs | None:
    return None if scores is None else scores.shown()
