"""The door: a client's request against the model's and the server's limits.

Behind it a request is an engine message; every refusal that needs the model happens here.
"""

import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain

from msgspec.structs import replace

from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import (
    EngineInfo,
    ErrorCode,
    GrammarSpec,
    RequestId,
    StopConditions,
)
from lorax_serve.server.adapter_records import AdapterRecord
from lorax_serve.server.adapter_resolver import ResolvedAdapter
from lorax_serve.server.asked_adapter import AskedAdapter, held_adapter, renewed
from lorax_serve.server.embedding import MAX_EMBEDDED_AT_ONCE, AcceptedEmbeddings
from lorax_serve.server.embedding_prompts import embedding_prompts
from lorax_serve.server.errors import ServeError
from lorax_serve.server.places import Place, Places
from lorax_serve.server.request import Constraint, EmbeddingRequest, GenerationRequest, Prompt
from lorax_serve.server.service import Limits, Service
from lorax_serve.server.structured_output import ConstraintCompiler
from lorax_serve.server.tenants import Tenants


@dataclass(frozen=True)
class Accepted:
    """A request the engine can take as it is, and what the text side needs to read its events."""

    messages: tuple[Generate, ...]  # one prompt's branches after the other's
    num_branches: int  # of each prompt
    only_prompt: bool  # the engine's token, of which there is always one, is not for the client
    stop_strings: tuple[str, ...]
    keep_stop_string: bool
    skip_special_tokens: bool
    num_prompt_characters: int
    adapter_source: str | None  # None: the base model
    adapters: tuple[ResolvedAdapter, ...]  # the adapter, or a merge's parts
    adapter_records: tuple[AdapterRecord, ...]  # of these
    grammar_warnings: tuple[str, ...]
    # One of the messages anew, folders as they are by then.
    renew: Callable[[Generate], Awaitable[Generate]]

    @property
    def message(self) -> Generate:
        """The first: all have the same but for prompt, seed and id."""
        return self.messages[0]

    @property
    def prompts_token_ids(self) -> tuple[list[int], ...]:
        return tuple(each.prompt_token_ids for each in self.messages[:: self.num_branches])

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts; one that has several branches counts once."""
        return sum(map(len, self.prompts_token_ids))


class Admission:
    """Counts the requests inside, and turns what was asked into what the engine is told."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._compiler = ConstraintCompiler(service.regex_compiler, service.control_tokens)
        self._tenants = Tenants(service.tenant_secret, service.prefix_cache_scope)
        self._places = Places(service.limits.max_concurrent_requests)

    @asynccontextmanager
    async def accept(self, asked: GenerationRequest) -> AsyncIterator[Accepted]:
        """For as long as the context is open, the request has a place for each answer among those
        that are served, and the adapter's files stay where they are. While its adapter has to come
        from a source it has no place, and waits beside them.

        Raises ServeError with the reason when the request cannot be served: QUEUE_FULL when all
        places are taken.
        """
        self._check_number(asked.num_sequences)
        async with (
            self._places.take(asked.num_sequences) as place,
            self._accepted(asked, place) as accepted,
        ):
            yield accepted

    @asynccontextmanager
    async def accept_embeddings(self, asked: EmbeddingRequest) -> AsyncIterator[AcceptedEmbeddings]:
        """The same for prompts that become vectors. They are computed some at a time, and only so
        many have a place.
        """
        limits = self._service.limits
        num_at_once = min(len(asked.prompts), MAX_EMBEDDED_AT_ONCE, limits.max_concurrent_requests)
        async with self._places.take(num_at_once) as place:
            prompts = await embedding_prompts(self._service, asked)
            async with held_adapter(self._service, asked, place) as adapter:
                token = asked.adapter_token
                yield AcceptedEmbeddings(
                    prompts=prompts,
                    num_at_once=num_at_once,
                    num_prompt_characters=_num_characters(asked.prompts),
                    pooling=None if asked.wants_labels else self._service.embedding_pooling,
                    adapter=adapter,
                    cache_salt=self._tenants.prefix_salt(token, asked.cache_salt),
                    tenant=self._tenants.name(token, is_proven=adapter.opened_by_token),
                    renew=functools.partial(renewed, self._service, asked, adapter.adapters),
                )

    def _check_number(self, num_answers: int) -> None:
        limits = self._service.limits
        most = min(limits.max_choices, limits.max_concurrent_requests)
        if num_answers > most:
            raise ServeError(
                ErrorCode.INVALID_REQUEST,
                f"The request asks for {num_answers} answers, prompts times choices: above {most}.",
                param="n",
            )

    @asynccontextmanager
    async def _accepted(self, asked: GenerationRequest, place: Place) -> AsyncIterator[Accepted]:
        info = self._service.engine.info
        _check_stops(asked, self._service.limits)
        _check_vocabulary(asked, info.vocab_size)
        prompts = [await self._prompt_ids(asked, each, info) for each in asked.prompts]
        lengths = [_max_new_tokens(asked, len(ids), info) for ids in prompts]
        grammar, warnings = await self._grammar(asked.constraint)
        # Last: it may have to be fetched.
        async with held_adapter(self._service, asked, place) as adapter:
            messages = [
                message
                for ids, max_new_tokens in zip(prompts, lengths, strict=True)
                for message in _branches(
                    asked, self._message(asked, ids, max_new_tokens, adapter, grammar)
                )
            ]
            renew = functools.partial(self._renewed, asked, adapter)
            yield _accepted(asked, tuple(messages), adapter, warnings, renew)

    async def _renewed(
        self, asked: GenerationRequest, adapter: AskedAdapter, message: Generate
    ) -> Generate:
        ref = await renewed(self._service, asked, adapter.adapters)
        return replace(message, request_id=RequestId(uuid.uuid4().hex), adapter=ref, after=None)

    def _message(
        self,
        asked: GenerationRequest,
        prompt_ids: list[int],
        max_new_tokens: int,
        adapter: AskedAdapter,
        grammar: GrammarSpec | None,
    ) -> Generate:
        token = asked.adapter_token
        return Generate(
            request_id=RequestId(uuid.uuid4().hex),
            prompt_token_ids=prompt_ids,
            sampling=asked.sampling,
            stop=StopConditions(
                max_new_tokens=max_new_tokens,
                min_new_tokens=asked.min_new_tokens,
                stop_token_ids=asked.stop_token_ids,
                ignore_eos=asked.ignore_eos,
            ),
            adapter=adapter.ref,
            grammar=grammar,
            cache_salt=self._tenants.prefix_salt(token, asked.cache_salt),
            num_prompt_logprobs=asked.num_prompt_logprobs,
            tenant=self._tenants.name(token, is_proven=adapter.opened_by_token),
        )

    async def _grammar(
        self, constraint: Constraint | None
    ) -> tuple[GrammarSpec | None, tuple[str, ...]]:
        return (None, ()) if constraint is None else await self._compiler.compile(constraint)

    async def _prompt_ids(
        self, asked: GenerationRequest, prompt: Prompt, info: EngineInfo
    ) -> list[int]:
        longest = info.max_model_len - 1  # at least one token is to be generated
        if asked.truncate is not None:
            if asked.truncate > longest:
                name = asked.truncate_param
                raise ServeError(
                    ErrorCode.INVALID_REQUEST, f"`{name}` is above {longest}.", param=name
                )
            longest = max(longest, self._service.limits.max_untruncated_tokens)
        if isinstance(prompt, str):
            ids = await self._service.tokenizer.encode_bounded(
                prompt, add_special_tokens=asked.add_special_tokens, max_tokens=longest
            )
        else:
            ids = list(prompt)
        if not ids:
            raise ServeError(ErrorCode.INVALID_REQUEST, "The prompt is empty.")
        return ids[-asked.truncate :] if asked.truncate else ids


def _branches(asked: GenerationRequest, first: Generate) -> Iterator[Generate]:
    """One prompt's messages: the others wait for the first one's prompt. That one tells of it."""
    yield first
    for branch in range(1, asked.num_branches):
        yield replace(
            first,
            request_id=RequestId(uuid.uuid4().hex),
            sampling=asked.branch_sampling(branch),
            num_prompt_logprobs=None,
            after=first.request_id,
        )


def _accepted(
    asked: GenerationRequest,
    messages: tuple[Generate, ...],
    adapter: AskedAdapter,
    warnings: tuple[str, ...],
    renew: Callable[[Generate], Awaitable[Generate]],
) -> Accepted:
    return Accepted(
        messages=messages,
        num_branches=asked.num_branches,
        only_prompt=asked.max_new_tokens == 0,
        stop_strings=asked.stop_strings,
        keep_stop_string=asked.keep_stop_string,
        skip_special_tokens=asked.skip_special_tokens,
        num_prompt_characters=_num_characters(asked.prompts),
        adapter_source=adapter.source,
        adapters=adapter.adapters,
        adapter_records=adapter.records,
        grammar_warnings=warnings,
        renew=renew,
    )


def _num_characters(prompts: tuple[Prompt, ...]) -> int:
    return sum(len(each) for each in prompts if isinstance(each, str))


def _max_new_tokens(asked: GenerationRequest, num_prompt: int, info: EngineInfo) -> int:
    room = info.max_model_len - num_prompt
    if room < 1:
        raise ServeError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"The prompt has {num_prompt} tokens; the model's context length is"
            f" {info.max_model_len}, which the answer shares.",
        )
    if asked.max_new_tokens is not None and asked.max_new_tokens > room:
        raise ServeError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"The prompt has {num_prompt} tokens and {asked.max_new_tokens} more are asked for;"
            f" the model's context length is {info.max_model_len}.",
        )
    return room if asked.max_new_tokens is None else max(asked.max_new_tokens, 1)


def _check_stops(asked: GenerationRequest, limits: Limits) -> None:
    too_many = len(asked.stop_strings) > limits.max_stop_sequences
    if too_many or len(asked.stop_token_ids) > limits.max_stop_token_ids:
        raise ServeError(
            ErrorCode.INVALID_REQUEST,
            f"At most {limits.max_stop_sequences} stop sequences and"
            f" {limits.max_stop_token_ids} stop token ids are accepted.",
            param="stop",
        )
    for stop in asked.stop_strings:
        if not 1 <= len(stop.encode()) <= limits.max_stop_sequence_bytes:
            raise ServeError(
                ErrorCode.INVALID_REQUEST,
                f"A stop sequence must have 1 to {limits.max_stop_sequence_bytes} bytes.",
                param="stop",
            )


def _check_vocabulary(asked: GenerationRequest, vocab_size: int) -> None:
    """Raises ServeError for any token id the model does not have."""
    named = {
        "prompt": tuple(chain.from_iterable(ids for ids in asked.prompts if type(ids) is tuple)),
        "stop_token_ids": asked.stop_token_ids,
        "logit_bias": tuple(token_id for token_id, _ in asked.sampling.logit_bias),
    }
    for name, token_ids in named.items():
        if token_ids and max(token_ids) >= vocab_size:
            raise ServeError(
                ErrorCode.INVALID_REQUEST,
                f"`{name}` has a token id outside the vocabulary of {vocab_size}.",
                param=name,
            )
