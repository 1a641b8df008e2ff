"""POST /v1/completions."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import msgspec
from aiohttp import web
from msgspec import UnsetType
from msgspec.structs import asdict

from lorax_serve.server.admission import Accepted
from lorax_serve.server.error_replies import Failure
from lorax_serve.server.generation import Answer, GeneratedToken, Piece
from lorax_serve.server.http_body import read_json
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.routes.exchange import generate
from lorax_serve.server.routes.openai_parts import (
    FINISH_REASON,
    UsageReport,
    completion_logprobs,
    identity,
)
from lorax_serve.server.schema.openai import COMPLETION, CompletionBody, completion_request
from lorax_serve.server.schema.openai_replies import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
)
from lorax_serve.server.service import Service
from lorax_serve.server.sse import DONE


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
    """One completion request's reply, or its chunks: texts, a finish, perhaps the usage."""

    def __init__(self, service: Service, accepted: Accepted, body: CompletionBody) -> None:
        self._tokenizer = service.tokenizer
        self._lists_logprobs = body.logprobs is not None
        self._identity = identity(service, accepted, prefix="cmpl-")
        self._usage = UsageReport(body.stream_options, accepted.num_prompt_tokens)
        self._num_characters = 0

    def reply(self, answer: Answer) -> bytes:
        self._usage.note(answer.prompt)
        choice = CompletionChoice(
            text=answer.finish.text,
            logprobs=self._logprobs(answer.tokens),
            finish_reason=FINISH_REASON[answer.finish.end],
            stop_reason=answer.finish.stop_reason,
        )
        return msgspec.json.encode(self._completion(choice, self._usage.total(len(answer.tokens))))

    async def frames(self, source: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(source):
            async for piece in source:
                for chunk in self._chunks(piece):
                    yield msgspec.json.encode(chunk)
        yield DONE

    def error_frame(self, failure: Failure) -> bytes:
        return failure.openai_body()

    def _chunks(self, piece: Piece) -> Iterator[Completion]:
        self._usage.note(piece.prompt)
        usage = self._usage.so_far(piece.num_tokens)
        logprobs = self._logprobs(piece.tokens)
        self._num_characters += len(piece.text)
        if piece.text or (logprobs and logprobs.tokens):
            yield self._completion(CompletionChoice(text=piece.text, logprobs=logprobs), usage)
        if piece.finish is not None:
            choice = CompletionChoice(
                text="",
                finish_reason=FINISH_REASON[piece.finish.end],
                stop_reason=piece.finish.stop_reason,
            )
            yield self._completion(choice, usage)
            if self._usage.at_end:
                yield self._completion(None, self._usage.total(piece.num_tokens))

    def _completion(
        self, choice: CompletionChoice | None, usage: Usage | UnsetType | None
    ) -> Completion:
        choices = () if choice is None else (choice,)
        return Completion(**asdict(self._identity), choices=choices, usage=usage)

    def _logprobs(self, tokens: tuple[GeneratedToken, ...]) -> CompletionLogprobs | None:
        if not self._lists_logprobs:
            return None
        return completion_logprobs(self._tokenizer, tokens, self._num_characters)
