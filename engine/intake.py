"""Turns a Generate or a Pool message into a Sequence, or refuses it: the boundary between them."""

import itertools
import time
from typing import Protocol

from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.labelled_prompt import LabelledPrompt
from lorax_serve.engine.pooled_prompt import PooledPrompt
from lorax_serve.engine.sequence import Sequence, SequenceId
from lorax_serve.grammar.errors import GrammarError
from lorax_serve.grammar.guide import Guide
from lorax_serve.ipc.messages import NO_BASE_HEAD, Generate, Pool
from lorax_serve.ipc.types import (
    EngineInfo,
    ErrorCode,
    GrammarKind,
    GrammarSpec,
    SamplingParams,
    StopConditions,
)

_NOTHING_NEW = StopConditions(max_new_tokens=1)  # of a prompt that is pooled none is ever sampled


class GuideSource(Protocol):
    def create(self, kind: str, payload: bytes, digest: str) -> Guide:
        """Raises GrammarError."""


class Intake:
    """Holds what every new sequence is checked against.

    The frontend has checked all of this; the engine must survive a frontend that did not.
    """

    def __init__(self, info: EngineInfo, guides: GuideSource, *, max_queued: int) -> None:
        self._info = info
        self._guides = guides
        self._max_queued = max_queued
        self._eos_token_ids = frozenset(info.eos_token_ids)
        self._arrivals = itertools.count()

    def sequence(
        self, sequence_id: SequenceId, request: Generate | Pool, num_waiting: int
    ) -> Sequence:
        """Raises RequestError."""
        if num_waiting >= self._max_queued:
            raise RequestError(ErrorCode.QUEUE_FULL, "The engine's queue is full.")
        if isinstance(request, Pool):
            return self._pooling(sequence_id, request)
        return self._generating(sequence_id, request)

    def _generating(self, sequence_id: SequenceId, request: Generate) -> Sequence:
        ids, num_new = request.prompt_token_ids, request.stop.max_new_tokens
        biased = (token for token, _ in request.sampling.logit_bias)
        self._check_ids(ids, *biased, *request.stop.stop_token_ids)
        self._check_length(len(ids) + num_new, f"{len(ids)} prompt tokens plus {num_new} new ones")
        return Sequence(
            id=sequence_id,
            arrival=next(self._arrivals),
            arrival_time=time.monotonic(),
            prompt_token_ids=ids,
            sampling=request.sampling,
            stop=request.stop,
            eos_token_ids=self._eos_token_ids,
            adapter=request.adapter,
            guide=None if request.grammar is None else self._guide(request.grammar),
            cache_salt=request.cache_salt,
            tenant=request.tenant,
            num_prompt_logprobs=request.num_prompt_logprobs,
        )

    def _pooling(self, sequence_id: SequenceId, request: Pool) -> Sequence:
        ids = request.prompt_token_ids
        self._check_ids(ids)
        self._check_length(len(ids), f"{len(ids)} prompt tokens")
        if request.pooling is None and request.adapter is None:
            raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, NO_BASE_HEAD)
        return Sequence(
            id=sequence_id,
            arrival=next(self._arrivals),
            arrival_time=time.monotonic(),
            prompt_token_ids=ids,
            sampling=SamplingParams(),
            stop=_NOTHING_NEW,
            eos_token_ids=self._eos_token_ids,
            adapter=request.adapter,
            cache_salt=request.cache_salt,
            tenant=request.tenant,
            pooled=PooledPrompt(request.pooling) if request.pooling else LabelledPrompt(),
        )

    def _check_ids(self, prompt: list[int], *named: int) -> None:
        if not prompt:
            raise RequestError(ErrorCode.INVALID_REQUEST, "The prompt has no tokens.")
        if max(itertools.chain(prompt, named)) >= self._info.vocab_size:
            raise RequestError(
                ErrorCode.INVALID_REQUEST, f"A token id is not below {self._info.vocab_size}."
            )

    def _check_length(self, num_tokens: int, what: str) -> None:
        if num_tokens > self._info.max_model_len:
            raise RequestError(
                ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                f"{what} exceed the limit of {self._info.max_model_len}.",
            )

    def _guide(self, grammar: GrammarSpec) -> Guide:
        try:
            return self._guides.create(grammar.kind.value, grammar.payload, grammar.digest)
        except GrammarError as error:
            raise RequestError(_refused(grammar.kind), str(error)) from error


def _refused(kind: GrammarKind) -> ErrorCode:
    """What a constraint of the kind is called that means nothing."""
    match kind:
        case GrammarKind.OUTLINES_INDEX:
            return ErrorCode.INVALID_REGEX
        case GrammarKind.LARK:
            return ErrorCode.INVALID_GRAMMAR
        case GrammarKind.LLGUIDANCE | GrammarKind.LLGUIDANCE_CONTROL:
            return ErrorCode.INVALID_JSON_SCHEMA
