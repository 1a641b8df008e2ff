"""OpenAI's reply bodies and stream chunks. A field that is UNSET is left out of the JSON."""

from typing import Annotated, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from lorax_serve.server.schema.common import json_of

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]
StopReason = str | int | None  # vLLM's extension: the stop string or stop token that matched
TokenIds = tuple[int, ...] | UnsetType  # vLLM's extension, for `return_token_ids`


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int


class CompletionTokensDetails(Struct, frozen=True):
    reasoning_tokens: int = 0


class Usage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[TopLogprob, ...]


class ChatLogprobs(Struct, frozen=True):
    content: tuple[TokenLogprob, ...]
    refusal: None = None


class CompletionLogprobs(Struct, frozen=True):
    """Parallel lists, one item per token; `text_offset` counts characters of the choice's text.

    Of the first token of an echoed prompt the model says nothing: null.
    """

    tokens: Annotated[Raw, json_of(list[str])]
    token_logprobs: Annotated[Raw, json_of(list[float | None])]
    top_logprobs: Annotated[Raw, json_of(list[dict[str, float] | None])]
    text_offset: Annotated[Raw, json_of(list[int])]


class CalledFunction(Struct, frozen=True):
    """Of a delta, what is new: the name with the first, then more of the arguments' JSON text."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCall(Struct, frozen=True, kw_only=True):
    """Of a delta, `id` and `type` come with the first of a call."""

    index: int | UnsetType = UNSET  # in a stream
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: CalledFunction


class ChatMessage(Struct, frozen=True):
    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    tool_calls: tuple[ToolCall, ...] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET  # the answer to `functions`


class ChatChoice(Struct, frozen=True, kw_only=True):
    index: int = 0
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: StopReason
    token_ids: TokenIds = UNSET


class ChatCompletion(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChatChoice, ...]
    usage: Usage
    service_tier: Literal["default"] | UnsetType = UNSET
    prompt_token_ids: TokenIds = UNSET


class ChatDelta(Struct, frozen=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: tuple[ToolCall, ...] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    index: int = 0
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: StopReason | UnsetType = UNSET  # on the last chunk
    token_ids: TokenIds = UNSET  # of this chunk


class ChatChunk(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[ChatChunkChoice, ...]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: TokenIds = UNSET  # on the first chunk


class CompletionChoice(Struct, frozen=True, kw_only=True):
    index: int = 0
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None  # null in every chunk but the last
    stop_reason: StopReason | UnsetType = UNSET
    token_ids: TokenIds = UNSET
    prompt_token_ids: TokenIds = UNSET  # of a stream, on the choice's first chunk


class Completion(Struct, frozen=True, kw_only=True):
    """The whole reply, or one chunk of its stream: both have this shape."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[CompletionChoice, ...]
    usage: Usage | UnsetType | None = UNSET


class Model(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lorax-serve"
    root: str  # what the id resolves to; never a path of this machine
    parent: str | None = None  # the base model of an adapter
    max_model_len: int | UnsetType = UNSET  # prompt plus output tokens, once the engine is ready


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[Model, ...]
