"""Everything that crosses the engine socket. Reading this file is reading the protocol.

Frontend to engine: Hello, Generate, Pool, AdapterCommand, Abort.   Engine to frontend:
LoadProgress, EngineReady, EngineFailed, StepEvents, AdapterReply, RequestFailed. Every Generate is
answered by exactly one terminal event: TokensGenerated with a finish reason, or RequestFailed;
every Pool by exactly one event: PromptPooled or RequestFailed. Every AdapterCommand is answered by
exactly one message: AdapterReply or RequestFailed. After an Abort of any the engine says nothing
more about it.
"""

import enum
import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from lorax_serve.ipc.adapter_report import AdapterReport
from lorax_serve.ipc.types import (
    AdapterRef,
    AnyAdapterRef,
    EngineInfo,
    ErrorCode,
    FinishReason,
    GrammarSpec,
    HeadKind,
    Pooling,
    PromptStats,
    RequestId,
    SamplingParams,
    StopConditions,
    TokenId,
    TokenLogprob,
)


class Hello(Struct, frozen=True, tag="hello", forbid_unknown_fields=True):
    protocol: str


class Generate(Struct, frozen=True, tag="generate", forbid_unknown_fields=True):
    request_id: RequestId
    prompt_token_ids: list[TokenId]
    sampling: SamplingParams
    stop: StopConditions
    adapter: AnyAdapterRef | None = None  # None: the base model
    grammar: GrammarSpec | None = None
    cache_salt: str = ""  # requests share prefix-cache blocks only under equal salts
    # How many of the most likely tokens to tell at every prompt position; None: nothing of them.
    num_prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    # One that was sent before, with equal prompt, adapter and salt: this one waits until that one's
    # prompt is computed, and takes it from the prefix cache.
    after: RequestId | None = None
    tenant: str = ""  # whom the tokens are counted against when places are few; "": one for all


# Where there is neither `pooling` nor an adapter.
NO_BASE_HEAD: Final = "The base model has no classification head; name an adapter that brings one."


class Pool(Struct, frozen=True, tag="pool", forbid_unknown_fields=True):
    """Compute a prompt and make one vector of its final hidden states, or show them to the
    classification head of the adapter; nothing is generated.
    """

    request_id: RequestId
    prompt_token_ids: list[TokenId]
    pooling: Pooling | None  # None: to the head
    adapter: AnyAdapterRef | None = None  # None: the base model
    cache_salt: str = ""  # as in Generate
    tenant: str = ""  # as in Generate


class AdapterAction(enum.Enum):
    """What an operator wants of the engine's tiers."""

    LOAD = "load"  # validate it and bring it to the device; afterwards it is like any other
    PIN = "pin"  # the same, and keep it there
    UNPIN = "unpin"  # let it go when room is needed; of one that is not pinned, nothing
    REPORT = "report"  # say what is where


class AdapterCommand(Struct, frozen=True, tag="adapter_command", forbid_unknown_fields=True):
    request_id: RequestId
    action: AdapterAction
    adapter: AdapterRef | None = None  # None for a REPORT, and only there

    def __post_init__(self) -> None:
        if (self.adapter is None) != (self.action is AdapterAction.REPORT):
            raise ValueError("a command names an adapter unless it asks for a report")


class Abort(Struct, frozen=True, tag="abort", forbid_unknown_fields=True):
    request_id: RequestId


class LoadProgress(Struct, frozen=True, tag="load_progress", forbid_unknown_fields=True):
    phase: str
    fraction: float  # 0 to 1 within the phase


class EngineReady(Struct, frozen=True, tag="engine_ready", forbid_unknown_fields=True):
    protocol: str
    info: EngineInfo


class EngineFailed(Struct, frozen=True, tag="engine_failed", forbid_unknown_fields=True):
    """The engine cannot start, and why, in a sentence for the operator."""

    message: str


class TokensGenerated(Struct, frozen=True, tag="tokens", forbid_unknown_fields=True):
    """What a step gave one request: new tokens, or logprobs of its prompt's, or both."""

    request_id: RequestId
    token_ids: list[int]
    finish_reason: FinishReason | None = None  # set exactly once, on the last event
    logprobs: list[TokenLogprob] | None = None  # one per token id when asked for
    prompt: PromptStats | None = None  # with the first token
    # Of the next tokens of the prompt, in order; the first token has none. All come before or with
    # the first token.
    prompt_logprobs: list[TokenLogprob] | None = None


class PromptPooled(Struct, frozen=True, tag="pooled", forbid_unknown_fields=True):
    """The answer to a Pool. That of a head has `num_labels`, and is no vector but the probability
    of each label, for the sequence or for one token after the other.
    """

    request_id: RequestId
    vector: bytes  # float32, little-endian, EngineInfo.hidden_size of them; of length 1
    prompt: PromptStats
    head: HeadKind | None = None
    num_labels: int = 0


class RequestFailed(Struct, frozen=True, tag="failed", forbid_unknown_fields=True):
    request_id: RequestId
    code: ErrorCode
    message: str


class AdapterReply(Struct, frozen=True, tag="adapter_reply", forbid_unknown_fields=True):
    """The command has been carried out."""

    request_id: RequestId
    report: AdapterReport | None = None  # what a REPORT asked for


class StepEvents(Struct, frozen=True, tag="events", forbid_unknown_fields=True):
    """All that one step has to say to one frontend."""

    events: list[TokensGenerated | PromptPooled | RequestFailed]


ToEngine = Hello | Generate | Pool | AdapterCommand | Abort
ToFrontend = LoadProgress | EngineReady | EngineFailed | StepEvents | AdapterReply | RequestFailed

RequestEvent = TokensGenerated | PromptPooled | RequestFailed


def protocol_hash() -> str:
    """A digest of every message's schema; two builds that differ in it must not talk."""
    schemas, components = msgspec.json.schema_components([ToEngine, ToFrontend])
    return hashlib.sha256(msgspec.json.encode([schemas, components], order="sorted")).hexdigest()[
        :16
    ]
