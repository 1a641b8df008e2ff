"""The OpenAPI 3.1 document: every route with its bodies, replies, errors and headers.

Made from the structs themselves, by scripts/make_openapi.py; the server shows what that wrote.
Spec: https://spec.openapis.org/oas/v3.1.1.
"""

import functools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.error_replies import (
    INTERNAL,
    Failure,
    NativeError,
    OpenAIError,
    failure_of,
    failure_of_http,
    is_openai,
)
from lorax_serve.server.errors import EngineLost, ServeError
from lorax_serve.server.openapi.headers import (
    DESCRIPTIONS,
    REQUEST_ID,
    RETRY_AFTER,
    SHOULD_RETRY,
)
from lorax_serve.server.openapi.operations import OPERATIONS, TAGS, Operation
from lorax_serve.server.openapi.published import OPERATOR
from lorax_serve.server.openapi.schemas import Components, Schema
from lorax_serve.server.routes.table import OPERATOR_ROUTES, PUBLIC_ROUTES
from lorax_serve.server.schema import chat, classify, embeddings, messages, native, openai, tokenize

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
ADAPTER_TOKEN: Final = "adapterToken"

SHAPES: Final = (
    native.BODY,
    native.PARAMETERS,
    embeddings.EMBED,
    embeddings.EMBED_PARAMETERS,
    embeddings.EMBEDDINGS,
    classify.CLASSIFY,
    classify.CLASSIFY_BATCH,
    tokenize.LORAX,
    tokenize.PROMPT,
    tokenize.MESSAGES,
    tokenize.DETOKENIZE,
    chat.CHAT,
    openai.COMPLETION,
)

NAMES: Final[Mapping[type[Struct], str]] = {
    native.Body: "GenerateBody",
    native.Parameters: "GenerateParameters",
    native.Reply: "Generated",
    native.Details: "GeneratedDetails",
    native.Token: "GeneratedToken",
    messages.ToolCall: "PastToolCall",
    messages.FunctionCall: "PastFunctionCall",
}

_DESCRIPTION: Final = (
    "Multi-LoRA inference: one base model, and adapters that requests name. Every GET answers HEAD"
    " too. In a request a null is an absent field, and a field that no schema names is left out and"
    " named in the header `x-ignored-params`, or refused if it looks like a constraint on the"
    " answer. An integer is written without a point or an exponent."
    " Of a stream, each event's `data` is the JSON of the schema that stands under"
    f" `{EVENTS}`, or of an error; OpenAI's streams end with `[DONE]`. An adapter's name in a path"
    " may hold slashes."
)
_HARDLY_HTTP: Final = (web.HTTPBadRequest,)
_BODY: Final = (
    web.HTTPRequestTimeout,
    functools.partial(web.HTTPRequestEntityTooLarge, 0, 0),
    web.HTTPUnsupportedMediaType,
)


def build_document(version: str) -> dict[str, Any]:
    """Raises KeyError for a route that OPERATIONS does not describe, ValueError if it describes
    one that is not there.
    """
    routes = {f"{r.method} {_plain(r.path)}": r for r in (*PUBLIC_ROUTES, *OPERATOR_ROUTES)}
    if unknown := OPERATIONS.keys() - routes:
        raise ValueError(f"no such routes: {sorted(unknown)}")
    components = Components(SHAPES, NAMES)
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, route in routes.items():
        path = _plain(route.path)
        paths[path][route.method.lower()] = _operation(route, path, OPERATIONS[name], components)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "lorax-serve",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": dict(sorted(components.schemas.items())),
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in DESCRIPTIONS.items()
            },
            "securitySchemes": _security_schemes(),
        },
    }


def _plain(path: str) -> str:
    """Without the patterns of its variables: `/adapters/{name:.+}/pin`."""
    return re.sub(r":[^}]*", "", path)


def _operation(
    route: web.RouteDef, path: str, operation: Operation, components: Components
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": _operation_id(route.method, path),
        "parameters": _parameters(path),
    }
    if operation.body:
        described["requestBody"] = _request_body(operation, components)
    described["responses"] = _success(operation, components) | _errors(path, operation, components)
    if security := _security(operation):
        described["security"] = security
    return described


def _operation_id(method: str, path: str) -> str:
    words = re.findall(r"\w+", path) or ["root"]
    return "_".join([method.lower(), *words])


def _parameters(path: str) -> list[Schema]:
    text = {"type": "string"}
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in re.findall(r"{(\w+)}", path)
    ]
    about = "Given back with the reply: 1 to 128 printable characters, no spaces."
    return [*in_path, {"name": REQUEST_ID, "in": "header", "description": about, "schema": text}]


def _request_body(operation: Operation, components: Components) -> Schema:
    content = {"schema": _any_of(components.request(kind) for kind in operation.body)}
    if operation.example is not None:
        content["example"] = operation.example
    return {"required": operation.needs_body, "content": {JSON: content}}


def _any_of(schemas: Iterable[Schema]) -> Schema:
    options = list(schemas)
    return options[0] if len(options) == 1 else {"anyOf": options}


def _success(operation: Operation, components: Components) -> Schema:
    content: Schema = {media: {"schema": {"type": "string"}} for media in operation.media}
    if operation.json is not None:
        content[JSON] = {"schema": components.reply(operation.json)}
    if operation.events is not None:
        content[EVENTS] = {"schema": components.reply(operation.events)}
    reply = {"description": "OK", "headers": _headers((REQUEST_ID, *operation.headers))}
    if operation.tag in ("LoRAX", "OpenAI") and not (operation.json or operation.events):
        return {}  # there is no such reply
    return {"200": {**reply, "content": content} if content else reply}


def _errors(path: str, operation: Operation, components: Components) -> Schema:
    """Of each status the words that tell its cases apart."""
    openai = is_openai(path)
    schema = components.reply(OpenAIError if openai else NativeError)
    replies = {}
    for status, failures in sorted(_failures(operation, openai=openai).items()):
        words = {each.code if openai else each.native_type for each in failures}
        headers = [REQUEST_ID]
        headers += [RETRY_AFTER] * any(each.retry_after is not None for each in failures)
        headers += [SHOULD_RETRY] * any(not each.should_retry for each in failures)
        replies[str(int(status))] = {
            "description": f"{status.phrase}: {', '.join(f'`{each}`' for each in sorted(words))}",
            "headers": _headers(headers),
            "content": {JSON: {"schema": schema}},
        }
    return replies


def _failures(operation: Operation, *, openai: bool) -> Mapping[HTTPStatus, list[Failure]]:
    failures = [failure_of(ServeError(code, "")) for code in operation.errors] + [INTERNAL]
    if ErrorCode.ENGINE_LOST in operation.errors:
        failures.append(failure_of(EngineLost()))
    http = {*_HARDLY_HTTP, *(_BODY if operation.body else ())}
    if operation.tag == OPERATOR:
        http.add(web.HTTPForbidden)
    failures += [failure_of_http(error()) for error in http]
    by_status = defaultdict(list)
    for failure in failures:
        by_status[failure.status if openai else failure.native_status].append(failure)
    return by_status


def _headers(names: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _security(operation: Operation) -> list[Schema]:
    """Alternatives, each of which is enough."""
    if operation.tag == OPERATOR:
        keys: Schema = {OPERATOR: []}
        return [keys, {**keys, ADAPTER_TOKEN: []}] if operation.names_adapter else [keys]
    return [{}, {ADAPTER_TOKEN: []}] if operation.names_adapter else []


def _security_schemes() -> Schema:
    return {
        ADAPTER_TOKEN: {
            "type": "apiKey",
            "in": "header",
            "name": "X-Adapter-Token",
            "description": "A token for the adapter's source, where it is private there; the"
            " body's `api_token` goes before it.",
        },
        OPERATOR: {
            "type": "http",
            "scheme": "bearer",
            "description": "The key that the server was started with (`--admin-key`).",
        },
    }


def written(document: Mapping[str, Any]) -> str:
    """As a file that people can compare with what it was."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
