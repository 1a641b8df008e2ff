"""Errors as clients see them: one sentence, a stable code, the shape of the API that was called.

OpenAI's nested body on /v1/*, LoRAX's flat one elsewhere. No exception text, path or input value
gets in here; whoever raises a ServeError vouches for its sentence.
"""

from dataclasses import dataclass
from http import HTTPStatus

import msgspec
from aiohttp import web

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import EngineLost, MalformedBody, ServeError, UnservedSource

# Even if every byte needs an escape, the whole body stays under a kilobyte.
MAX_MESSAGE_BYTES = 400
MAX_PARAM_BYTES = 64
_CUT = " …".encode()

# LoRAX's error_type, which its client maps to exception classes, and the status on native routes.
NATIVE: dict[ErrorCode, tuple[HTTPStatus, str]] = {
    ErrorCode.INVALID_REQUEST: (HTTPStatus.UNPROCESSABLE_ENTITY, "validation"),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: (HTTPStatus.UNPROCESSABLE_ENTITY, "validation"),
    ErrorCode.UNSUPPORTED_PARAMETER: (HTTPStatus.UNPROCESSABLE_ENTITY, "validation"),
    ErrorCode.INVALID_JSON_SCHEMA: (HTTPStatus.UNPROCESSABLE_ENTITY, "validation"),
    ErrorCode.INVALID_REGEX: (HTTPStatus.UNPROCESSABLE_ENTITY, "validation"),
    ErrorCode.INVALID_GRAMMAR: (HTTPStatus.UNPROCESSABLE_ENTITY, "validation"),
    ErrorCode.SCHEMA_TOO_COMPLEX: (HTTPStatus.UNPROCESSABLE_ENTITY, "validation"),
    ErrorCode.MODEL_NOT_FOUND: (HTTPStatus.FAILED_DEPENDENCY, "generation"),
    ErrorCode.ADAPTER_CORRUPT: (HTTPStatus.FAILED_DEPENDENCY, "generation"),
    ErrorCode.ADAPTER_CHANGED: (HTTPStatus.SERVICE_UNAVAILABLE, "generation"),
    ErrorCode.ADAPTER_NOT_FINITE: (HTTPStatus.FAILED_DEPENDENCY, "generation"),
    ErrorCode.ADAPTER_INCOMPATIBLE: (HTTPStatus.FAILED_DEPENDENCY, "generation"),
    ErrorCode.ADAPTER_TOO_LARGE: (HTTPStatus.FAILED_DEPENDENCY, "generation"),
    ErrorCode.ADAPTER_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "generation"),
    ErrorCode.ADAPTER_INTEGRITY: (HTTPStatus.FAILED_DEPENDENCY, "generation"),
    ErrorCode.INSUFFICIENT_STORAGE: (HTTPStatus.FAILED_DEPENDENCY, "generation"),
    ErrorCode.QUEUE_FULL: (HTTPStatus.TOO_MANY_REQUESTS, "overloaded"),
    ErrorCode.ADAPTER_QUEUE_FULL: (HTTPStatus.TOO_MANY_REQUESTS, "overloaded"),
    ErrorCode.NOT_READY: (HTTPStatus.SERVICE_UNAVAILABLE, "not_ready"),
    ErrorCode.ENGINE_LOST: (HTTPStatus.SERVICE_UNAVAILABLE, "incomplete_generation"),
    ErrorCode.SERVER_SHUTDOWN: (HTTPStatus.SERVICE_UNAVAILABLE, "incomplete_generation"),
    ErrorCode.GENERATION_ERROR: (HTTPStatus.FAILED_DEPENDENCY, "generation"),
}

RETRY_AFTER = {
    ErrorCode.QUEUE_FULL: 1,
    ErrorCode.ADAPTER_QUEUE_FULL: 5,
    ErrorCode.SERVER_SHUTDOWN: 1,
    ErrorCode.ENGINE_LOST: 5,
    ErrorCode.NOT_READY: 5,
    ErrorCode.ADAPTER_UNAVAILABLE: 5,
    ErrorCode.ADAPTER_CHANGED: 1,
}

# What HTTP itself refuses, before any route has read a body.
HTTP_SENTENCES: dict[int, tuple[str, str]] = {
    400: ("bad_request", "The request is not valid."),
    403: ("forbidden", "This address asks for the server's admin key."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not answer that method."),
    408: ("request_timeout", "The body did not arrive in time."),
    413: ("payload_too_large", "The body is too large."),
    415: ("unsupported_media_type", "The Content-Type must be application/json."),
}


class EncodedBody(web.HTTPUnsupportedMediaType):
    """A body under a Content-Encoding."""


class NativeError(msgspec.Struct, frozen=True):
    error: str
    error_type: str


class OpenAIErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(msgspec.Struct, frozen=True):
    error: OpenAIErrorDetail


@dataclass(frozen=True)
class Failure:
    """What went wrong, in the words of both APIs."""

    message: str
    code: str
    native_type: str
    status: HTTPStatus
    native_status: HTTPStatus
    param: str | None = None
    retry_after: int | None = None  # seconds
    should_retry: bool = True  # False: the same request may do the same harm again
    native_message: str | None = None  # where it differs

    def native_body(self) -> bytes:
        message = self.message if self.native_message is None else self.native_message
        return msgspec.json.encode(
            NativeError(_bounded(message, MAX_MESSAGE_BYTES), self.native_type)
        )

    def openai_body(self) -> bytes:
        type_ = _openai_type(self.status)
        param = None if self.param is None else _bounded(self.param, MAX_PARAM_BYTES)
        detail = OpenAIErrorDetail(
            _bounded(self.message, MAX_MESSAGE_BYTES), type_, param, self.code
        )
        return msgspec.json.encode(OpenAIError(detail))


INTERNAL = Failure(
    message="The server failed while answering this request.",
    code="internal_error",
    native_type="internal_error",
    status=HTTPStatus.INTERNAL_SERVER_ERROR,
    native_status=HTTPStatus.INTERNAL_SERVER_ERROR,
)

UNREADABLE = Failure(
    message="The request cannot be read as HTTP.",
    code="bad_request",
    native_type="bad_request",
    status=HTTPStatus.BAD_REQUEST,
    native_status=HTTPStatus.BAD_REQUEST,
)


def failure_of(error: ServeError) -> Failure:
    native_status, native_type = NATIVE[error.code]
    if isinstance(error, MalformedBody):
        native_status, native_type = HTTPStatus.BAD_REQUEST, "bad_request"
    elif isinstance(error, UnservedSource):  # which LoRAX finds out when it loads the adapter
        native_status, native_type = NATIVE[ErrorCode.MODEL_NOT_FOUND]
    elif isinstance(error, EngineLost):
        native_status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Failure(
        message=error.message,
        code=error.code.value,
        native_type=native_type,
        status=error.status,
        native_status=native_status,
        param=error.param,
        retry_after=error.retry_after or RETRY_AFTER.get(error.code),
        should_retry=not isinstance(error, EngineLost),
        native_message=error.native_message,
    )


def failure_of_http(error: web.HTTPException) -> Failure:
    status = HTTPStatus(error.status)
    code, sentence = HTTP_SENTENCES.get(error.status, ("http_error", status.phrase + "."))
    if isinstance(error, EncodedBody):
        sentence = "The body must come without Content-Encoding."
    return Failure(sentence, code, code, status, status)


def is_openai(path: str) -> bool:
    """Which API's shape an error has at this address; the operator's routes have OpenAI's."""
    return path.startswith(("/v1/", "/adapters"))


def error_reply(request: web.BaseRequest, failure: Failure) -> web.Response:
    openai = is_openai(request.path)
    reply = web.Response(
        status=failure.status if openai else failure.native_status,
        body=failure.openai_body() if openai else failure.native_body(),
        content_type="application/json",
    )
    if failure.retry_after is not None:
        reply.headers["Retry-After"] = str(failure.retry_after)
    if not failure.should_retry:
        reply.headers["x-should-retry"] = "false"  # OpenAI's clients heed it
    return reply


def _openai_type(status: HTTPStatus) -> str:
    if status is HTTPStatus.FORBIDDEN:
        return "permission_error"
    if status is HTTPStatus.NOT_FOUND:
        return "not_found_error"
    if status is HTTPStatus.TOO_MANY_REQUESTS:
        return "overloaded_error"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    return "invalid_request_error"


def _bounded(text: str, max_bytes: int) -> str:
    """One printable line of at most so many bytes; what is cut ends at a word."""
    line = "".join(c if c.isprintable() else " " for c in text).encode(errors="replace")
    if len(line) <= max_bytes:
        return line.decode()
    kept = line[: max_bytes - len(_CUT)].decode(errors="ignore")
    return (kept.rpartition(" ")[0] or kept) + _CUT.decode()
