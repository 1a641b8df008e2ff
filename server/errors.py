"""What the frontend answers when it cannot serve, and the HTTP status of each code.

ServeError          one request fails; carries an ErrorCode, a sentence and maybe the field's name
├── MalformedBody   the request's bytes are not JSON at all
├── UnservedSource  adapters are not fetched from where the request says
└── EngineLost      the engine process is gone; every request it had taken gets this

StartError          the server cannot start; the sentence is for the operator
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from lorax_serve.ipc.types import ErrorCode

MAX_SHOWN_CHARS: Final = 128  # of an adapter's name

STATUS: dict[ErrorCode, HTTPStatus] = {
    ErrorCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: HTTPStatus.BAD_REQUEST,
    ErrorCode.MODEL_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.ADAPTER_CORRUPT: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.ADAPTER_CHANGED: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.ADAPTER_NOT_FINITE: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.ADAPTER_INCOMPATIBLE: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.ADAPTER_TOO_LARGE: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.ADAPTER_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.ADAPTER_INTEGRITY: HTTPStatus.BAD_GATEWAY,
    ErrorCode.INSUFFICIENT_STORAGE: HTTPStatus.INSUFFICIENT_STORAGE,
    ErrorCode.INVALID_JSON_SCHEMA: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_REGEX: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_GRAMMAR: HTTPStatus.BAD_REQUEST,
    ErrorCode.SCHEMA_TOO_COMPLEX: HTTPStatus.BAD_REQUEST,
    ErrorCode.UNSUPPORTED_PARAMETER: HTTPStatus.BAD_REQUEST,
    ErrorCode.QUEUE_FULL: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.ADAPTER_QUEUE_FULL: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.NOT_READY: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.ENGINE_LOST: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.SERVER_SHUTDOWN: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.GENERATION_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class ServeError(Exception):
    """Fails one request. `message` is safe to show: no paths, no library text, no input echoed.

    `native_message` says it in LoRAX's words where they differ; `retry_after` is in seconds.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        param: str | None = None,
        native_message: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.native_message = message if native_message is None else native_message
        self.retry_after = retry_after

    @property
    def status(self) -> HTTPStatus:
        return STATUS[self.code]


class MalformedBody(ServeError):
    """The body cannot be read as JSON, so no field of it can be named."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_REQUEST, message)


class UnservedSource(ServeError):
    """An adapter is named with a source that this server does not fetch from."""

    def __init__(self, served: Iterable[str] = ("local",)) -> None:
        *others, last = (f"`{name}`" for name in served)
        names = f"{', '.join(others)} and {last}" if others else last
        sentence = f"That `adapter_source` is not supported by this server, which serves {names}."
        super().__init__(ErrorCode.UNSUPPORTED_PARAMETER, sentence, param="adapter_source")


def adapter_not_found(adapter_id: str, meant: str | None = None) -> ServeError:
    """The same for an adapter that is not there and for one that this caller may not use; `meant`
    is one that everybody may.
    """
    hint = "" if meant is None else f" Did you mean {_shown(meant)}?"
    rest = f"{_shown(adapter_id)} does not exist.{hint}"
    return ServeError(
        ErrorCode.MODEL_NOT_FOUND,
        f"Model {rest}",
        param="model",
        native_message=f"Adapter {rest}",
    )


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_SHOWN_CHARS else f"{name[:MAX_SHOWN_CHARS]}…")


class EngineLost(ServeError):
    """The engine process ended while it had the request, which may be what ended it."""

    def __init__(self, message: str = "The engine stopped while this request was open.") -> None:
        super().__init__(ErrorCode.ENGINE_LOST, message)


class StartError(Exception):
    """The server cannot start; the message says what is wrong and what to do."""
