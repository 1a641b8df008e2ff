"""Facts both processes speak about. Each is defined once, here."""

import enum
import hashlib
from typing import Annotated, NewType, TypeAlias

import msgspec
from msgspec import Meta, Struct

RequestId = NewType("RequestId", str)

TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class FinishReason(enum.Enum):
    """Why the engine ended a sequence. Stop strings are the frontend's: it aborts instead."""

    EOS = "eos"
    STOP_TOKEN = "stop_token"
    LENGTH = "length"


class ErrorCode(enum.Enum):
    """What went wrong with one request, or with the engine. The frontend maps each to a status."""

    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    ADAPTER_CORRUPT = "adapter_corrupt"
    ADAPTER_CHANGED = "adapter_changed"  # its files are not those any more that the request meant
    ADAPTER_NOT_FINITE = "adapter_not_finite"  # NaN or infinity, as they are or once scaled
    ADAPTER_INCOMPATIBLE = "adapter_incompatible"
    ADAPTER_TOO_LARGE = "adapter_too_large"
    ADAPTER_UNAVAILABLE = "adapter_unavailable"  # its source is out of reach, or too slow
    ADAPTER_INTEGRITY = "adapter_integrity"  # its source sent other bytes than it announced
    INSUFFICIENT_STORAGE = "insufficient_storage"
    INVALID_JSON_SCHEMA = "invalid_json_schema"
    INVALID_REGEX = "invalid_regex"
    INVALID_GRAMMAR = "invalid_grammar"
    SCHEMA_TOO_COMPLEX = "schema_too_complex"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    QUEUE_FULL = "queue_full"
    ADAPTER_QUEUE_FULL = "adapter_queue_full"  # too many requests wait for its source
    NOT_READY = "not_ready"
    ENGINE_LOST = "engine_lost"
    SERVER_SHUTDOWN = "server_shutdown"
    GENERATION_ERROR = "generation_error"


class SamplingParams(Struct, frozen=True, forbid_unknown_fields=True):
    """How one sequence picks its tokens. Defaults change nothing.

    Order of application: repetition, frequency and presence penalties, logit bias, grammar mask,
    temperature, top-k, top-p, min-p, typical-p. `temperature == 0` is greedy, exactly: the arg-max
    of the penalised, masked logits, whatever the other fields say.
    """

    temperature: Annotated[float, Meta(ge=0, le=100)] = 1.0
    top_k: Annotated[int, Meta(ge=0, lt=2**31)] = 0  # 0: off
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    typical_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0  # over prompt and output
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0  # over output only
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0  # over output only
    seed: Seed = 0
    logit_bias: tuple[tuple[TokenId, Annotated[float, Meta(ge=-100, le=100)]], ...] = ()
    num_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None  # None: no logprobs at all


class StopConditions(Struct, frozen=True, forbid_unknown_fields=True):
    """When one sequence ends, as far as the engine can see (it sees ids, never text)."""

    max_new_tokens: Annotated[int, Meta(ge=1)]
    min_new_tokens: Annotated[int, Meta(ge=0)] = 0  # before, no token that ends it is sampled
    stop_token_ids: tuple[TokenId, ...] = ()
    ignore_eos: bool = False


class Pooling(enum.Enum):
    """How a prompt's final hidden states [T, E] become one vector [E]."""

    LAST = "last"  # that of the last token, which alone has seen all others
    MEAN = "mean"  # of all tokens


class HeadKind(enum.Enum):
    """What a classification head says something of."""

    SEQUENCE = "sequence"  # the whole, by the state of its last token
    TOKEN = "token"  # each token


class GrammarKind(enum.Enum):
    """How `GrammarSpec.payload` is read."""

    LLGUIDANCE = "llguidance"  # a serialized llguidance grammar, UTF-8 JSON
    # The same, which may name tokens that are no text by their ids.
    LLGUIDANCE_CONTROL = "llguidance_control"
    LARK = "lark"  # a serialized llguidance grammar too, of a client's own making
    OUTLINES_INDEX = "outlines_index"  # a compiled outlines_core Index in its own binary form


class GrammarSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """A constraint already validated (or compiled) by the frontend."""

    kind: GrammarKind
    payload: bytes
    digest: str  # sha256 hex of kind and payload; keys the engine's cache


class AdapterRef(Struct, frozen=True, tag="adapter", forbid_unknown_fields=True):
    """Which adapter a request wants, resolved to files. Equal refs mean the same bytes."""

    name: str  # as the operator's users call it; for messages only
    path: str  # absolute folder holding adapter_config.json and the safetensors file
    revision: str  # changes whenever the files do
    # Others may write to the folder; its revision is a `folder_state`, and holds for nothing else.
    is_writable: bool = False


class MergeStrategy(enum.Enum):
    """How deltas become one; `engine/adapters/merge.py` says what each computes."""

    LINEAR = "linear"
    TIES = "ties"
    DARE_LINEAR = "dare_linear"
    DARE_TIES = "dare_ties"
    MAGNITUDE_PRUNE = "magnitude_prune"

    @property
    def prunes(self) -> bool:
        return self is not MergeStrategy.LINEAR

    @property
    def elects_signs(self) -> bool:
        return self in (MergeStrategy.TIES, MergeStrategy.DARE_TIES)


class MajoritySignMethod(enum.Enum):
    """What decides the sign of an element: the sum of the parts' values, or of their signs."""

    TOTAL = "total"
    FREQUENCY = "frequency"


MAX_MERGED_ADAPTERS = 8
MAX_MERGE_WEIGHT = 1000.0  # and as much below zero

MergeWeight = Annotated[float, Meta(ge=-MAX_MERGE_WEIGHT, le=MAX_MERGE_WEIGHT)]
MergeDensity = Annotated[float, Meta(gt=0, le=1)]


class MergedAdapters(Struct, frozen=True, tag="merged", forbid_unknown_fields=True):
    """Several adapters to be used as one. Equal merges mean the same weights.

    Stands wherever an AdapterRef may. What a strategy does not use has its default, so that merges
    which compute the same are equal.
    """

    parts: Annotated[tuple[AdapterRef, ...], Meta(min_length=1, max_length=MAX_MERGED_ADAPTERS)]
    weights: tuple[MergeWeight, ...]  # one per part
    strategy: MergeStrategy = MergeStrategy.LINEAR
    density: MergeDensity | None = None  # share of a delta's elements that pruning keeps
    majority_sign_method: MajoritySignMethod = MajoritySignMethod.TOTAL

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.parts):
            raise ValueError("a merge has one weight per part")
        if self.strategy.prunes == (self.density is None):
            raise ValueError("a merge has a density exactly where its strategy prunes")

    @property
    def name(self) -> str:
        """The parts' names; for messages only."""
        return ",".join(part.name for part in self.parts)

    @property
    def is_writable(self) -> bool:
        """Whether others may write to any part's folder."""
        return any(part.is_writable for part in self.parts)

    @property
    def revision(self) -> str:
        """Changes whenever a part's files or how they are merged do."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()


AnyAdapterRef: TypeAlias = AdapterRef | MergedAdapters


class TokenLogprob(Struct, frozen=True, array_like=True):
    """Natural-log probabilities under the raw model distribution, always finite."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), most likely first


class PromptStats(Struct, frozen=True, forbid_unknown_fields=True):
    """Sent once, with a request's first token or its vector."""

    num_cached_tokens: int  # prompt tokens whose keys and values came from the prefix cache
    queue_seconds: float  # from arrival at the engine to the first forward


class EngineInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """What the engine serves and how much fits, known once it is ready."""

    architecture: str
    device: str
    dtype: str
    num_parameters: int
    vocab_size: int
    hidden_size: int  # numbers of a pooled vector
    eos_token_ids: tuple[int, ...]
    max_model_len: int  # prompt plus output tokens of one request
    block_size: int  # tokens per KV block
    num_blocks: int
    max_num_sequences: int
    max_adapter_rank: int
    adapter_pool_bytes: int
    typical_adapter_bytes: int  # one rank-16 adapter on every adaptable linear
