"""Parts that the replies of chat and completions have in common."""

import hashlib
import time
from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType

from lorax_serve.ipc.types import PromptStats
from lorax_serve.server.admission import Accepted
from lorax_serve.server.generation import End, GeneratedToken
from lorax_serve.server.schema.openai import StreamOptions
from lorax_serve.server.schema.openai_replies import (
    ChatLogprobs,
    CompletionLogprobs,
    FinishReason,
    PromptTokensDetails,
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


def usage(num_prompt_tokens: int, num_tokens: int, prompt: PromptStats | None) -> Usage:
    return Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=num_tokens,
        total_tokens=num_prompt_tokens + num_tokens,
        prompt_tokens_details=PromptTokensDetails(prompt.num_cached_tokens if prompt else 0),
    )


class UsageReport:
    """What a stream says about usage: nothing, or a last chunk, or every chunk."""

    def __init__(self, options: StreamOptions | None, num_prompt_tokens: int) -> None:
        self.at_end = options is not None and bool(options.include_usage)
        self._always = self.at_end and options is not None and bool(options.continuous_usage_stats)
        self._num_prompt_tokens = num_prompt_tokens
        self._prompt: PromptStats | None = None

    def note(self, prompt: PromptStats | None) -> None:
        """Cached prompt tokens are told once, with the first piece."""
        self._prompt = self._prompt or prompt

    def so_far(self, num_tokens: int) -> Usage | UnsetType | None:
        """For a chunk that is not the last."""
        if self._always:
            return self.total(num_tokens)
        return None if self.at_end else UNSET

    def total(self, num_tokens: int) -> Usage:
        return usage(self._num_prompt_tokens, num_tokens, self._prompt)


def chat_logprobs(tokenizer: Tokenizer, tokens: Iterable[GeneratedToken]) -> ChatLogprobs:
    """A token that only ended the answer is no part of it, nor of its logprobs."""
    return ChatLogprobs(
        tuple(
            TokenLogprob(
                token=tokenizer.token_text(token.id),
                logprob=token.logprob.logprob,
                bytes=tuple(tokenizer.token_bytes(token.id)),
                top_logprobs=tuple(
                    TopLogprob(tokenizer.token_text(i), p, tuple(tokenizer.token_bytes(i)))
                    for i, p in token.logprob.top
                ),
            )
            for token in tokens
            if not token.silent
        )
    )


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Iterable[GeneratedToken], offset: int
) -> CompletionLogprobs:
    """`offset`: characters of the answer before these tokens."""
    shown = [token for token in tokens if not token.silent]
    offsets = []
    for token in shown:
        offsets.append(offset)
        offset += len(token.text)
    texts = [tokenizer.token_text(token.id) for token in shown]
    return CompletionLogprobs(
        tokens=tuple(texts),
        token_logprobs=tuple(token.logprob.logprob for token in shown),
        top_logprobs=tuple(
            {text: token.logprob.logprob}
            | {tokenizer.token_text(i): p for i, p in token.logprob.top}
            for text, token in zip(texts, shown, strict=True)
        ),
        text_offset=tuple(offsets),
    )
