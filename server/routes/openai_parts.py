"""Parts that the replies of chat and completions have in common."""

import hashlib
import time
from collections.abc import Callable, Iterable

import msgspec
from msgspec import UNSET, UnsetType

from lorax_serve.ipc.types import PromptStats
from lorax_serve.server.admission import Accepted
from lorax_serve.server.generation import Answer, End, GeneratedToken
from lorax_serve.server.schema.openai import StreamOptions
from lorax_serve.server.schema.openai_replies import (
    ChatLogprobs,
    FinishReason,
    PromptTokensDetails,
    TokenIds,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from lorax_serve.server.service import Service
from lorax_serve.server.text.tokenizer import Tokenizer

FINISH_REASON: dict[End, FinishReason] = {
    End.EOS: "stop",
    End.STOP_TOKEN: "stop",
    End.STOP_STRING: "stop",
    End.LENGTH: "length",
}


class Identity(msgspec.Struct, frozen=True):
    """The fields that every chunk and every reply of one request repeat."""

    id: str
    created: int  # Unix seconds
    model: str  # the base model's id, or the adapter's name
    system_fingerprint: str


def identity(service: Service, accepted: Accepted, *, prefix: str) -> Identity:
    """`prefix`: "chatcmpl-" or "cmpl-". The base model has one name here, however it was asked for:
    another may be a path of this machine.
    """
    info, adapter = service.engine.info, accepted.message.adapter
    parts = (
        service.version,
        service.model_id,
        service.model_revision,
        info.dtype,
        info.device,
        adapter and adapter.revision,
    )
    digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
    return Identity(
        id=prefix + accepted.message.request_id,
        created=int(time.time()),
        model=adapter.name if adapter else service.model_id,
        system_fingerprint=f"fp_{digest[:12]}",
    )


class UsageReport:
    """A request's tokens, all choices together; in a stream not, at the end, or always."""

    def __init__(self, options: StreamOptions | None, accepted: Accepted) -> None:
        self.at_end = options is not None and bool(options.include_usage)
        self._num_tokens: dict[int, int] = {}  # by choice
        self._always = self.at_end and options is not None and bool(options.continuous_usage_stats)
        self._num_prompt_tokens = accepted.num_prompt_tokens
        self._num_branches = accepted.num_branches
        self._num_cached_tokens = 0

    def note(self, index: int, num_tokens: int, prompt: PromptStats | None) -> None:
        """A choice has so many tokens by now. What a prompt's first branch found in the cache
        counts; the others find there what that one has computed."""
        self._num_tokens[index] = num_tokens
        if prompt is not None and index % self._num_branches == 0:
            self._num_cached_tokens += prompt.num_cached_tokens

    def note_all(self, answers: Iterable[Answer]) -> None:
        for index, answer in enumerate(answers):
            self.note(index, len(answer.tokens), answer.prompt)

    def so_far(self) -> Usage | UnsetType | None:
        """For a chunk that is not the last."""
        if self._always:
            return self.total()
        return None if self.at_end else UNSET

    def total(self) -> Usage:
        num_tokens = sum(self._num_tokens.values())
        return Usage(
            prompt_tokens=self._num_prompt_tokens,
            completion_tokens=num_tokens,
            total_tokens=self._num_prompt_tokens + num_tokens,
            prompt_tokens_details=PromptTokensDetails(self._num_cached_tokens),
        )


class TokenIdsShown:
    """Which ids `return_token_ids` brings: of a prompt once, of an answer each with its chunk."""

    def __init__(self, accepted: Accepted, *, shown: bool) -> None:
        self._prompts = accepted.prompts_token_ids if shown else None

    @property
    def are_wanted(self) -> bool:
        return self._prompts is not None

    def of_prompt(self, number: int = 0) -> TokenIds:
        return UNSET if self._prompts is None else tuple(self._prompts[number])

    def of(self, tokens: Iterable[GeneratedToken]) -> TokenIds:
        """Those that only ended the answer too."""
        return UNSET if self._prompts is None else tuple(token.id for token in tokens)


def token_names(tokenizer: Tokenizer, *, as_ids: bool) -> Callable[[int], str]:
    """What logprobs call a token: its text, or as vLLM does on demand "token_id:17"."""
    return "token_id:{}".format if as_ids else tokenizer.token_text


def chat_logprobs(
    tokenizer: Tokenizer, tokens: Iterable[GeneratedToken], name: Callable[[int], str]
) -> ChatLogprobs:
    """A token that only ended the answer is no part of it, nor of its logprobs."""
    return ChatLogprobs(
        tuple(
            TokenLogprob(
                token=name(token.id),
                logprob=token.logprob.logprob,
                bytes=tuple(tokenizer.token_bytes(token.id)),
                top_logprobs=tuple(
                    TopLogprob(name(i), p, tuple(tokenizer.token_bytes(i)))
                    for i, p in token.logprob.top
                ),
            )
            for token in tokens
            if not token.silent
        )
    )
