"""LoRAX's own request and reply bodies."""

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from lorax_serve.ipc.types import SamplingParams
from lorax_serve.server.request import (
    Constraint,
    GenerationRequest,
    Merge,
    draw_seed,
    effective_temperature,
    fold_seed,
)
from lorax_serve.server.schema.common import (
    OUTPUT_CONTROLS,
    AdapterToken,
    ObjectShape,
    invalid,
    json_of,
)
from lorax_serve.server.schema.constraints import ResponseFormat
from lorax_serve.server.schema.merging import MergedAdapters

Count = Annotated[int, Meta(ge=1, lt=2**31)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=1e-6, le=1)]
MAX_U64 = 2**64 - 1
MAX_BEST_OF = 16


class Parameters(Struct, frozen=True, kw_only=True):
    adapter_id: Annotated[str, Meta(max_length=4096)] = ""
    adapter_source: Annotated[str, Meta(max_length=64)] | None = None
    api_token: AdapterToken | None = None
    merged_adapters: MergedAdapters | None = None
    do_sample: bool = False
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_k: Count | None = None
    top_p: Share = 1.0
    typical_p: Share = 1.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    seed: Annotated[int, Meta(ge=0)] | None = None
    max_new_tokens: Count | None = None
    ignore_eos_token: bool = False
    stop: str | tuple[str, ...] = ()
    truncate: Count | None = None
    return_full_text: bool = False
    details: bool = False
    best_of: Annotated[int, Meta(ge=1, le=MAX_BEST_OF)] = 1
    decoder_input_details: bool = False
    return_k_alternatives: Annotated[int, Meta(ge=1, le=20)] | None = None
    response_format: ResponseFormat | None = None
    cache_salt: Annotated[str, Meta(max_length=128)] = ""  # vLLM's

    def __repr__(self) -> str:
        return "Parameters(…)"  # one of them is secret

    @property
    def shows_details(self) -> bool:
        return self.details or self.decoder_input_details

    @property
    def samples(self) -> bool:
        """LoRAX's rule: a temperature of 1 alone is greedy. A temperature of 0 always is."""
        if self.temperature is not None and effective_temperature(self.temperature) == 0:
            return False
        return (
            self.do_sample
            or self.temperature not in (None, 1)
            or self.top_k is not None
            or self.top_p < 1
            or self.typical_p < 1
        )


class Body(Struct, frozen=True):
    inputs: Annotated[str, Meta(min_length=1)]
    parameters: Annotated[Raw, json_of(Parameters)] = Raw(b"{}")
    stream: bool = False


# OpenAI's way to shape an answer, which would change it if it were dropped.
UNSERVED: dict[str, tuple[object, ...]] = {
    **OUTPUT_CONTROLS,
    "logit_bias": ({},),
    "min_p": (0, 0.0),
    "stop_token_ids": ([],),
}

# Left out, these would give another model's answer, or one without end.
_WHOSE = ("adapter_id", "adapter_source", "api_token")
_LENGTHS = ("max_tokens", "max_completion_tokens")

BODY = ObjectShape(
    Body,
    unserved=UNSERVED,
    large=("inputs",),
    meant={name: f"parameters.{name}" for name in (*_WHOSE, "max_new_tokens")}
    | dict.fromkeys(_LENGTHS, "parameters.max_new_tokens"),
)
PARAMETERS = ObjectShape(
    Parameters,
    unserved=UNSERVED,
    meant=dict.fromkeys(_LENGTHS, "parameters.max_new_tokens"),
    path="parameters.",
)


def parse_body(raw: bytes) -> tuple[Body, Parameters, tuple[str, ...]]:
    """Both levels of a request, and the names of unknown fields."""
    body, ignored = BODY.parse(raw)
    parameters, ignored_parameters = PARAMETERS.parse(bytes(body.parameters))
    return body, parameters, ignored + ignored_parameters


def generation_request(inputs: str, asked: Parameters, *, streams: bool) -> GenerationRequest:
    """Raises ServeError on fields that contradict."""
    _check_best_of(asked, streams=streams)
    if asked.decoder_input_details and streams:
        raise invalid("parameters.decoder_input_details", "cannot be streamed")
    # Each shown token has its logprob, and the best answer is found by them.
    lists_tokens = streams or asked.shows_details or asked.best_of > 1
    return GenerationRequest(
        prompt=inputs,
        adapter_id=asked.adapter_id,
        merge=_merge(asked),
        adapter_source=asked.adapter_source,
        adapter_token=asked.api_token,
        sampling=_sampling(asked, lists_tokens=lists_tokens),
        num_branches=asked.best_of,
        num_prompt_logprobs=0 if asked.decoder_input_details else None,
        truncate=asked.truncate,
        truncate_param="parameters.truncate",
        cache_salt=asked.cache_salt,
        max_new_tokens=asked.max_new_tokens,
        stop_strings=(asked.stop,) if isinstance(asked.stop, str) else asked.stop,
        keep_stop_string=True,
        ignore_eos=asked.ignore_eos_token,
        constraint=_constraint(asked.response_format),
    )


def _check_best_of(asked: Parameters, *, streams: bool) -> None:
    name = "parameters.best_of"
    if asked.best_of == 1:
        return
    if streams:
        raise invalid(name, "cannot be streamed")
    if not asked.samples:
        raise invalid(name, "needs sampling, such as `do_sample`: else all answers are the same")
    if asked.seed is not None:
        raise invalid(name, "cannot be given beside `parameters.seed`")


def _merge(asked: Parameters) -> Merge | None:
    if asked.merged_adapters is None:
        return None
    name = "parameters.merged_adapters"
    if asked.adapter_id:
        raise invalid(name, "cannot be given beside `parameters.adapter_id`")
    return asked.merged_adapters.merge(name)


def _constraint(asked: ResponseFormat | None) -> Constraint | None:
    return None if asked is None else asked.constraint("parameters.response_format")


def _sampling(asked: Parameters, *, lists_tokens: bool) -> SamplingParams:
    if asked.seed is not None and asked.seed > MAX_U64:
        raise invalid("parameters.seed", f"is above {MAX_U64}")
    temperature = 1.0 if asked.temperature is None else asked.temperature
    return SamplingParams(
        temperature=temperature if asked.samples else 0.0,
        top_k=asked.top_k or 0,
        top_p=asked.top_p,
        typical_p=asked.typical_p,
        repetition_penalty=asked.repetition_penalty,
        frequency_penalty=asked.frequency_penalty,
        presence_penalty=asked.presence_penalty,
        seed=draw_seed() if asked.seed is None else fold_seed(asked.seed),
        num_logprobs=(asked.return_k_alternatives or 0) if lists_tokens else None,
    )


class AlternativeToken(Struct, frozen=True):
    id: int
    text: str
    logprob: float


class Token(Struct, frozen=True):
    id: int
    text: str
    logprob: float
    special: bool
    skipped: bool = False  # gained by speculation, which this server does not do
    alternative_tokens: tuple[AlternativeToken, ...] | UnsetType = UNSET


class PrefillToken(Struct, frozen=True):
    id: int
    text: str
    logprob: float | None  # null for the first


Prefill = Annotated[Raw, json_of(tuple[PrefillToken, ...])]
Tokens = Annotated[Raw, json_of(tuple[Token, ...])]


class BestOfSequence(Struct, frozen=True):
    """An answer that was not the best."""

    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: Prefill
    tokens: Tokens


class Details(Struct, frozen=True):
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    skipped_tokens: int
    seed: int | None
    prefill: Prefill  # empty unless `decoder_input_details` asks for it
    tokens: Tokens
    best_of_sequences: tuple[BestOfSequence, ...] | UnsetType = UNSET


class Reply(Struct, frozen=True):
    generated_text: str
    details: Details | UnsetType = UNSET


class StreamDetails(Struct, frozen=True):
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int
    seed: int | None


class StreamEvent(Struct, frozen=True):
    token: Token
    generated_text: str | None = None
    details: StreamDetails | None = None
