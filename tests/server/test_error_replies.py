import json
from http import HTTPStatus

import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lorax.errors import (
    BadRequestError,
    GenerationError,
    IncompleteGenerationError,
    OverloadedError,
    UnknownError,
    ValidationError,
    parse_error,
)

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.error_replies import (
    INTERNAL,
    MAX_MESSAGE_BYTES,
    failure_of,
    failure_of_http,
)
from lorax_serve.server.errors import STATUS, EngineLost, MalformedBody, ServeError

RAISED_BY_CLIENT = {
    ErrorCode.INVALID_REQUEST: ValidationError,
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: ValidationError,
    ErrorCode.UNSUPPORTED_PARAMETER: ValidationError,
    ErrorCode.INVALID_JSON_SCHEMA: ValidationError,
    ErrorCode.INVALID_REGEX: ValidationError,
    ErrorCode.INVALID_GRAMMAR: ValidationError,
    ErrorCode.SCHEMA_TOO_COMPLEX: ValidationError,
    ErrorCode.MODEL_NOT_FOUND: GenerationError,
    ErrorCode.ADAPTER_CORRUPT: GenerationError,
    ErrorCode.ADAPTER_CHANGED: GenerationError,
    ErrorCode.ADAPTER_NOT_FINITE: GenerationError,
    ErrorCode.ADAPTER_INCOMPATIBLE: GenerationError,
    ErrorCode.ADAPTER_TOO_LARGE: GenerationError,
    ErrorCode.ADAPTER_UNAVAILABLE: GenerationError,
    ErrorCode.ADAPTER_INTEGRITY: GenerationError,
    ErrorCode.INSUFFICIENT_STORAGE: GenerationError,
    ErrorCode.GENERATION_ERROR: GenerationError,
    ErrorCode.QUEUE_FULL: OverloadedError,
    ErrorCode.ADAPTER_QUEUE_FULL: OverloadedError,
    ErrorCode.NOT_READY: UnknownError,
    ErrorCode.ENGINE_LOST: IncompleteGenerationError,
    ErrorCode.SERVER_SHUTDOWN: IncompleteGenerationError,
}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_in_both_shapes(code: ErrorCode) -> None:
    failure = failure_of(ServeError(code, "A sentence.", param="field"))
    native = json.loads(failure.native_body())
    assert native["error"] == "A sentence."
    assert type(parse_error(failure.native_status, native)) is RAISED_BY_CLIENT[code]
    detail = json.loads(failure.openai_body())["error"]
    assert (detail["message"], detail["param"]) == ("A sentence.", "field")
    assert detail["code"] == code.value
    assert failure.status is STATUS[code]
    assert (failure.retry_after is not None) == (failure.status in (429, 503))


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (ErrorCode.INVALID_REQUEST, "invalid_request_error"),
        (ErrorCode.ADAPTER_CORRUPT, "invalid_request_error"),
        (ErrorCode.MODEL_NOT_FOUND, "not_found_error"),
        (ErrorCode.QUEUE_FULL, "overloaded_error"),
        (ErrorCode.NOT_READY, "server_error"),
        (ErrorCode.GENERATION_ERROR, "server_error"),
    ],
)
def test_openai_types(status: ErrorCode, type_: str) -> None:
    body = failure_of(ServeError(status, "x")).openai_body()
    assert json.loads(body)["error"]["type"] == type_


def test_what_the_engine_had_when_it_ended_should_not_be_retried() -> None:
    assert not failure_of(EngineLost()).should_retry
    assert failure_of(ServeError(ErrorCode.ENGINE_LOST, "Gone.")).should_retry


# LoRAX's statuses for whatever its model server answers; OpenAI's routes have their own.
@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.MODEL_NOT_FOUND,
        ErrorCode.ADAPTER_CORRUPT,
        ErrorCode.ADAPTER_NOT_FINITE,
        ErrorCode.ADAPTER_INCOMPATIBLE,
        ErrorCode.ADAPTER_TOO_LARGE,
        ErrorCode.GENERATION_ERROR,
    ],
)
def test_what_is_wrong_with_an_adapter_is_a_failed_dependency(code: ErrorCode) -> None:
    failure = failure_of(ServeError(code, "x"))
    assert failure.native_status == 424
    assert failure.native_type == "generation"
    assert failure.status in (404, 422, 500)


def test_an_error_may_have_words_for_each_api() -> None:
    error = ServeError(ErrorCode.MODEL_NOT_FOUND, "Model.", native_message="Adapter.")
    assert json.loads(failure_of(error).native_body())["error"] == "Adapter."
    assert json.loads(failure_of(error).openai_body())["error"]["message"] == "Model."


def test_malformed_json_is_a_bad_request_on_both() -> None:
    failure = failure_of(MalformedBody("Not JSON."))
    assert failure.status is failure.native_status is HTTPStatus.BAD_REQUEST
    raised = parse_error(failure.native_status, json.loads(failure.native_body()))
    assert type(raised) is BadRequestError


@pytest.mark.parametrize(
    "error",
    [
        web.HTTPNotFound(text="secret"),
        web.HTTPMethodNotAllowed("GET", ["POST"], text="secret"),
        web.HTTPRequestEntityTooLarge(1, 2, text="secret"),
        web.HTTPUnsupportedMediaType(text="secret"),
        web.HTTPExpectationFailed(text="secret"),
    ],
)
def test_http_refusals_say_our_sentence(error: web.HTTPException) -> None:
    failure = failure_of_http(error)
    assert failure.status == failure.native_status == error.status
    assert "secret" not in failure.message


@settings(derandomize=True)
@given(message=st.text(max_size=3000), param=st.none() | st.text(max_size=3000))
@example(message='"\\' * 1000, param='"' * 1000)
def test_bodies_are_one_short_line(message: str, param: str | None) -> None:
    failure = failure_of(ServeError(ErrorCode.INVALID_REQUEST, message * 3, param=param))
    for body in (failure.native_body(), failure.openai_body()):
        assert len(body) <= 1024
        assert b"\n" not in body
        json.loads(body)


@given(st.lists(st.text("abé", min_size=1, max_size=30), min_size=10, max_size=60))
def test_what_is_cut_ends_at_a_word(words: list[str]) -> None:
    message = " ".join(words)
    shown = json.loads(failure_of(ServeError(ErrorCode.INVALID_REQUEST, message)).native_body())
    if len(message.encode()) <= MAX_MESSAGE_BYTES:
        assert shown["error"] == message
        return
    kept = shown["error"].removesuffix(" …")
    assert kept != shown["error"] and message.startswith(kept)
    assert message[len(kept)] == " "
    assert len(shown["error"].encode()) <= MAX_MESSAGE_BYTES


def test_the_internal_failure_says_nothing_about_itself() -> None:
    assert INTERNAL.status is INTERNAL.native_status is HTTPStatus.INTERNAL_SERVER_ERROR
