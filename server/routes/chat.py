"""POST /v1/chat/completions."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Final, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from lorax_serve.server.adapter_chat import chat_of
from lorax_serve.server.adapter_token import adapter_token
from lorax_serve.server.admission import Accepted
from lorax_serve.server.error_replies import Failure
from lorax_serve.server.generation import Answer, Finish, GeneratedToken, Piece
from lorax_serve.server.http_body import read_json
from lorax_serve.server.keys import CHAT_PROMPTS, SERVICE, TEXT_PLACES
from lorax_serve.server.request import AdapterRequest
from lorax_serve.server.routes.chat_calls import ChoiceCalls
from lorax_serve.server.routes.exchange import generate
from lorax_serve.server.routes.openai_parts import (
    FINISH_REASON,
    TokenIdsShown,
    UsageReport,
    chat_logprobs,
    identity,
    token_names,
)
from lorax_serve.server.schema.chat import CHAT, ChatBody, chat_conversation, chat_request
from lorax_serve.server.schema.openai_replies import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    FinishReason,
    TokenIds,
    Usage,
)
from lorax_serve.server.schema.tools import AskedTools, ToolMode
from lorax_serve.server.service import Service
from lorax_serve.server.sse import DONE
from lorax_serve.server.text.tool_calls.formats import CallFormat

EFFORT: Final = "reasoning_effort"
STRICT: Final = "tools.function.strict"

Tier = Literal["default"] | UnsetType


async def chat_completions(request: web.Request) -> web.StreamResponse:
    service = request.app[SERVICE]
    body, ignored = CHAT.parse(await read_json(request, service.limits))
    if body.reasoning_effort is not None and not _shows_effort(request):
        ignored = (*ignored, EFFORT)
    tools = body.asked_tools()
    form = _call_format(request, body, tools)
    if tools is not None and tools.is_strict and tools.mode is ToolMode.AUTO and form is None:
        ignored = (*ignored, STRICT)
    async with (
        request.app[TEXT_PLACES].take() as place,
        chat_of(request, _asked_adapter(request, body), place) as chat,
    ):
        conversation = chat_conversation(body, shows_effort=_shows_effort(request))
        prompt = await chat.render(conversation, tools)
    asked = chat_request(body, prompt, tools, form)
    return await generate(
        request,
        asked,
        lambda accepted: ChatView(service, accepted, body, tools, form),
        streams=body.stream,
        ignored=ignored,
    )


def _asked_adapter(request: web.Request, body: ChatBody) -> AdapterRequest:
    return AdapterRequest(
        adapter_id=body.model,
        adapter_source=body.adapter_source,
        adapter_token=adapter_token(request, body.api_token),
    )


def _call_format(
    request: web.Request, body: ChatBody, tools: AskedTools | None
) -> CallFormat | None:
    """How the model writes calls where it decides: not at all, if the answer is constrained."""
    if tools is None or (tools.mode is ToolMode.AUTO and body.constraint() is not None):
        return None
    return request.app[CHAT_PROMPTS].call_format


def _shows_effort(request: web.Request) -> bool:
    return request.app[CHAT_PROMPTS].allows(EFFORT)


class ChatView:
    """One chat request's reply, or its chunks: a role, contents, a finish, perhaps the usage."""

    def __init__(
        self,
        service: Service,
        accepted: Accepted,
        body: ChatBody,
        tools: AskedTools | None,
        form: CallFormat | None,
    ) -> None:
        """`form` is how the model writes calls of the tools, if it does."""
        self._tokenizer = service.tokenizer
        self._lists_logprobs = body.logprobs
        self._name = token_names(service.tokenizer, as_ids=body.return_tokens_as_token_ids)
        self._tier: Tier = UNSET if body.service_tier is None else "default"
        self._identity = identity(service, accepted, prefix="chatcmpl-")
        self._usage = UsageReport(body.stream_options, accepted)
        # One for each choice, if there are tools.
        self._calls = () if tools is None else [ChoiceCalls(tools, form) for _ in range(body.n)]
        self._num_choices = body.n
        self._ids = TokenIdsShown(accepted, shown=body.return_token_ids)
        self._begun = False

    def reply(self, answers: Sequence[Answer]) -> bytes:
        self._usage.note_all(answers)
        completion = ChatCompletion(
            **asdict(self._identity),
            choices=tuple(self._choice(index, each) for index, each in enumerate(answers)),
            usage=self._usage.total(),
            service_tier=self._tier,
            prompt_token_ids=self._ids.of_prompt(),
        )
        return msgspec.json.encode(completion)

    def _choice(self, index: int, answer: Answer) -> ChatChoice:
        finish = answer.finish
        message = (
            self._calls[index].message(finish.text) if self._calls else ChatMessage(finish.text)
        )
        return ChatChoice(
            index=index,
            message=message,
            logprobs=self._logprobs(answer.tokens),
            finish_reason=self._finish_reason(index, finish),
            stop_reason=answer.finish.stop_reason,
            token_ids=self._ids.of(answer.tokens),
        )

    async def frames(self, source: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(source):
            async for piece in source:
                for chunk in self._chunks(piece):
                    yield msgspec.json.encode(chunk)
        if self._usage.at_end:
            yield msgspec.json.encode(self._chunk(None, self._usage.total()))
        yield DONE

    def error_frame(self, failure: Failure) -> bytes:
        return failure.openai_body()

    def _chunks(self, piece: Piece) -> Iterator[ChatChunk]:
        self._usage.note(piece.index, piece.num_tokens, piece.prompt)
        usage = self._usage.so_far()
        if not self._begun:
            self._begun = True
            for index in range(self._num_choices):
                begun = ChatChunkChoice(index=index, delta=ChatDelta("assistant", ""))
                ids = UNSET if index else self._ids.of_prompt()
                yield self._chunk(begun, usage, prompt_token_ids=ids)
        logprobs, ids = self._logprobs(piece.tokens), self._ids.of(piece.tokens)
        deltas = list(self._deltas(piece))
        if not deltas and ((logprobs and logprobs.content) or (ids and piece.finish is None)):
            deltas = [ChatDelta(content="")]
        for delta in deltas:
            choice = ChatChunkChoice(
                index=piece.index, delta=delta, logprobs=logprobs, token_ids=ids
            )
            logprobs, ids = None, UNSET
            yield self._chunk(choice, usage)
        if piece.finish is not None:
            yield self._chunk(self._finish_choice(piece.index, piece.finish, ids), usage)

    def _deltas(self, piece: Piece) -> Iterator[ChatDelta]:
        if self._calls:
            is_last = piece.finish is not None
            yield from self._calls[piece.index].deltas(piece.text, is_last=is_last)
        elif piece.text:
            yield ChatDelta(content=piece.text)

    def _chunk(
        self,
        choice: ChatChunkChoice | None,
        usage: Usage | UnsetType | None,
        *,
        prompt_token_ids: TokenIds = UNSET,
    ) -> ChatChunk:
        return ChatChunk(
            **asdict(self._identity),
            choices=() if choice is None else (choice,),
            usage=usage,
            prompt_token_ids=prompt_token_ids,
        )

    def _logprobs(self, tokens: tuple[GeneratedToken, ...]) -> ChatLogprobs | None:
        if not self._lists_logprobs:
            return None
        return chat_logprobs(self._tokenizer, tokens, self._name)

    def _finish_choice(self, index: int, finish: Finish, ids: TokenIds) -> ChatChunkChoice:
        return ChatChunkChoice(
            index=index,
            delta=ChatDelta(),
            finish_reason=self._finish_reason(index, finish),
            stop_reason=finish.stop_reason,
            token_ids=ids,
        )

    def _finish_reason(self, index: int, finish: Finish) -> FinishReason:
        return (
            self._calls[index].finish_reason(finish) if self._calls else FINISH_REASON[finish.end]
        )
