"""What each address takes and gives, in terms of the structs that the routes use."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.openapi.examples import (
    CHAT_EXAMPLE,
    CLASSIFY_BATCH_EXAMPLE,
    CLASSIFY_EXAMPLE,
    COMPLETION_EXAMPLE,
    EMBED_EXAMPLE,
    EMBEDDINGS_EXAMPLE,
    GENERATE_EXAMPLE,
    LOAD_EXAMPLE,
)
from lorax_serve.server.openapi.headers import ADAPTER, GENERATED, GRAMMAR, IGNORED, POOLED, SERVED
from lorax_serve.server.openapi.published import OPERATOR
from lorax_serve.server.routes.health import Info, Version
from lorax_serve.server.schema import admin, classify, embeddings, native, openai_replies, tokenize
from lorax_serve.server.schema.chat import ChatBody
from lorax_serve.server.schema.openai import CompletionBody
from lorax_serve.server.text.tokenizer import TokenPiece

Tag = Literal["LoRAX", "OpenAI", "text", "server", "operator"]

TAGS: Final[Mapping[Tag, str]] = {
    "LoRAX": "LoRAX's API. Errors are `{error, error_type}`.",
    "OpenAI": "OpenAI's API, with the extensions of LoRAX and vLLM.",
    "text": "Tokens of texts, and texts of tokens.",
    "server": "Probes, and what is served.",
    OPERATOR: "Routes for who has the server's admin key.",
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    tag: Tag
    summary: str
    body: tuple[object, ...] = ()  # one of these, as JSON
    needs_body: bool = True  # where there is one
    example: Any = None  # of the body
    json: object = None  # the type of a reply
    events: object = None  # of what stands in each `data:` of a streamed reply
    media: tuple[str, ...] = ()  # of replies that are neither
    errors: frozenset[ErrorCode] = frozenset()
    names_adapter: bool = False  # and so may bring a token for its source
    headers: tuple[str, ...] = ()  # of what is no error; a stream lacks those of POOLED and on


_READ: Final = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.UNSUPPORTED_PARAMETER,
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ErrorCode.NOT_READY,
        ErrorCode.QUEUE_FULL,
    }
)
_GRAMMARS: Final = frozenset(
    {
        ErrorCode.INVALID_JSON_SCHEMA,
        ErrorCode.INVALID_REGEX,
        ErrorCode.INVALID_GRAMMAR,
        ErrorCode.SCHEMA_TOO_COMPLEX,
    }
)
_ALL: Final = frozenset(ErrorCode)
_PROBED: Final = frozenset({ErrorCode.NOT_READY})

_GENERATE: Final = Operation(
    tag="LoRAX",
    summary="A generation",
    body=(native.Body,),
    example=GENERATE_EXAMPLE,
    json=native.Reply,
    errors=_ALL,
    names_adapter=True,
    headers=(*SERVED, *ADAPTER, *IGNORED, *GRAMMAR, *POOLED, *GENERATED),
)
_ROOT: Final = replace(
    _GENERATE,
    summary="A generation: a list of one, or with `stream` a stream",
    json=list[native.Reply],
    events=native.StreamEvent,
)
_OPENAI: Final = replace(_GENERATE, tag="OpenAI")
_POOL: Final = Operation(
    tag="LoRAX",
    summary="A text's vector",
    body=(embeddings.EmbedBody,),
    example=EMBED_EXAMPLE,
    json=embeddings.Embedded,
    errors=_ALL - _GRAMMARS,
    names_adapter=True,
    headers=(*SERVED, *ADAPTER, *IGNORED, *POOLED),
)
_STREAM: Final = replace(
    _GENERATE,
    summary="A generation as a stream",
    json=None,
    events=native.StreamEvent,
    headers=(*SERVED, *ADAPTER, *IGNORED, *GRAMMAR),
)
_DEPLOYMENT: Final = "/{tenant}/deployments/v2/llms/{model}"
_OF_DEPLOYMENT: Final = "The same at Predibase's address: `model` is the base model or an adapter"
_CLASSIFY: Final = replace(
    _POOL,
    summary="Labels of a text, or of stretches of it, by an adapter's classification head",
    body=(classify.ClassifyBody,),
    example=CLASSIFY_EXAMPLE,
    json=list[classify.Label],
)
_PROBE: Final = Operation(tag="server", summary="Whether the frontend lives: 200, empty")
_READY: Final = replace(_PROBE, summary="Whether requests are served: 200, empty", errors=_PROBED)
_DESCRIBED: Final = Operation(tag="server", summary="This description", json=dict[str, object])
_COMMAND: Final = Operation(
    tag=OPERATOR,
    summary="Pins an adapter to the device",
    body=(admin.AdapterBody,),
    needs_body=False,
    json=admin.Pinned,
    errors=_ALL - _GRAMMARS - {ErrorCode.QUEUE_FULL},
    names_adapter=True,
)
_LOAD: Final = replace(
    _COMMAND,
    summary="Gives an adapter a name, once the engine has loaded it",
    body=(admin.LoadBody,),
    needs_body=True,
    example=LOAD_EXAMPLE,
    json=None,
    media=("text/plain",),
)

# By method and path, as aiohttp writes them.
OPERATIONS: Final[Mapping[str, Operation]] = {
    "POST /": _ROOT,
    "POST /generate": _GENERATE,
    "POST /generate_stream": _STREAM,
    "POST /invocations": _ROOT,
    f"POST {_DEPLOYMENT}": replace(_ROOT, summary=_OF_DEPLOYMENT),
    f"POST {_DEPLOYMENT}/generate": replace(_GENERATE, summary=_OF_DEPLOYMENT),
    f"POST {_DEPLOYMENT}/generate_stream": replace(_STREAM, summary=_OF_DEPLOYMENT),
    "POST /embed": _POOL,
    "POST /classify": _CLASSIFY,
    "POST /classify_batch": replace(
        _CLASSIFY,
        summary="The same of several texts",
        body=(classify.ClassifyBatchBody,),
        example=CLASSIFY_BATCH_EXAMPLE,
        json=list[list[classify.Label]],
    ),
    "POST /tokenize": Operation(
        tag="text",
        summary="The tokens of a text or a conversation, in LoRAX's shape or in vLLM's",
        body=(tokenize.LoraxTokenize, tokenize.PromptTokenize, tokenize.MessagesTokenize),
        example={"inputs": "Hello there"},
        json=list[TokenPiece] | tokenize.Tokenized,
        errors=_READ,
        headers=IGNORED,
    ),
    "POST /detokenize": Operation(
        tag="text",
        summary="The text of tokens",
        body=(tokenize.Detokenize,),
        example={"tokens": [1, 2, 3]},
        json=tokenize.Detokenized,
        errors=_READ,
        headers=IGNORED,
    ),
    "POST /v1/chat/completions": replace(
        _OPENAI,
        summary="A chat",
        body=(ChatBody,),
        example=CHAT_EXAMPLE,
        json=openai_replies.ChatCompletion,
        events=openai_replies.ChatChunk,
    ),
    "POST /v1/completions": replace(
        _OPENAI,
        summary="A completion",
        body=(CompletionBody,),
        example=COMPLETION_EXAMPLE,
        json=openai_replies.Completion,
        events=openai_replies.Completion,
    ),
    "POST /v1/embeddings": replace(
        _POOL,
        tag="OpenAI",
        summary="Vectors of texts",
        body=(embeddings.EmbeddingsBody,),
        example=EMBEDDINGS_EXAMPLE,
        json=embeddings.EmbeddingList,
    ),
    "GET /v1/models": Operation(
        tag="OpenAI",
        summary="The base model, and the adapters that this caller may use",
        json=openai_replies.ModelList,
        names_adapter=True,
    ),
    "GET /v1/models/{model_id}": Operation(
        tag="OpenAI",
        summary="One of them",
        json=openai_replies.Model,
        errors=frozenset({ErrorCode.MODEL_NOT_FOUND}),
        names_adapter=True,
    ),
    "GET /": _PROBE,
    "GET /health": _PROBE,
    "GET /ping": _READY,
    "POST /ping": _READY,
    "GET /ready": _READY,
    "GET /startup": replace(_READY, summary="Generates a token with the base model: 200, empty"),
    "GET /info": Operation(
        tag="server", summary="The served model and its limits", json=Info, errors=_PROBED
    ),
    "GET /version": Operation(tag="server", summary="This server's version", json=Version),
    "GET /metrics": Operation(
        tag="server",
        summary="Metrics in Prometheus's text format",
        media=("text/plain",),
        errors=_PROBED,
    ),
    "GET /openapi.json": _DESCRIBED,
    "GET /api-doc/openapi.json": _DESCRIBED,
    "GET /docs": Operation(
        tag="server", summary="This description as a page", media=("text/html",)
    ),
    "POST /v1/load_lora_adapter": _LOAD,
    "POST /v1/unload_lora_adapter": replace(
        _LOAD,
        summary="Takes a name back",
        body=(admin.UnloadBody,),
        example={"lora_name": "support"},
        names_adapter=False,
    ),
    "GET /adapters": Operation(
        tag=OPERATOR, summary="Every adapter, and where it is", json=admin.AdapterList
    ),
    "POST /adapters/{name}/pin": _COMMAND,
    "POST /adapters/{name}/unpin": replace(
        _COMMAND, summary="Lets a pinned adapter go", json=admin.Unpinned
    ),
    "POST /adapters/{name}/refresh": replace(
        _COMMAND, summary="Asks the source anew what a name means", json=admin.Refreshed
    ),
}
