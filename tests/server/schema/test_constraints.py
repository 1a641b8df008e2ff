import json

import msgspec
import pytest
from lorax.types import ResponseFormat as LoraxResponseFormat

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.request import Choice, Constraint, Grammar, JsonObject, JsonSchema, Regex
from lorax_serve.server.schema.constraints import (
    ResponseFormat,
    StructuredOutputs,
    guided_constraint,
)

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def response_format(**fields: object) -> Constraint | None:
    raw = json.dumps(fields).encode()
    return msgspec.json.decode(raw, type=ResponseFormat).constraint("response_format")


def structured(**fields: object) -> Constraint:
    raw = json.dumps(fields).encode()
    return msgspec.json.decode(raw, type=StructuredOutputs).constraint("structured_outputs")


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"type": "text"}, None),
        ({"type": "Text", "schema": None}, None),
        ({"type": "json_object"}, JsonObject()),
        ({"type": "json_object", "schema": None}, JsonObject()),
        ({"type": "JsonObject", "schema": SCHEMA}, JsonSchema(SCHEMA)),
        ({"type": "JsonObject", "schema": None}, JsonObject()),
        ({"type": "json_schema", "schema": SCHEMA}, JsonSchema(SCHEMA)),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
            JsonSchema(SCHEMA, strict=True),
        ),
        (
            {"type": "JsonSchema", "json_schema": {"schema": SCHEMA, "strict": None}},
            JsonSchema(SCHEMA),
        ),
        ({"type": "json_object", "schema": False}, JsonSchema(False)),
    ],
)
def test_response_format(fields: dict[str, object], constraint: Constraint | None) -> None:
    assert response_format(**fields) == constraint


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "xml"},
        {"type": "text", "schema": SCHEMA},
        {"type": "json_schema", "schema": SCHEMA, "json_schema": {"schema": SCHEMA}},
        {"type": "json_schema"},
        {"type": "JsonSchema", "schema": None},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": None, "strict": True}},
    ],
)
def test_response_format_that_contradicts(fields: dict[str, object]) -> None:
    with pytest.raises(ServeError) as caught:
        response_format(**fields)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert (caught.value.param or "").startswith("response_format")


def test_what_the_lorax_client_sends() -> None:
    sent = LoraxResponseFormat(type="json_object", schema=SCHEMA).model_dump(by_alias=True)
    assert response_format(**sent) == JsonSchema(SCHEMA)


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"json": SCHEMA}, JsonSchema(SCHEMA)),
        ({"json": json.dumps(SCHEMA)}, JsonSchema(SCHEMA)),
        ({"json": True, "regex": None}, JsonSchema(True)),
        ({"regex": "a+"}, Regex("a+")),
        ({"choice": ["a", "b"]}, Choice(("a", "b"))),
        ({"grammar": 'start: "a"'}, Grammar('start: "a"')),
        ({"json_object": True}, JsonObject()),
    ],
)
def test_structured_outputs(fields: dict[str, object], constraint: Constraint) -> None:
    assert structured(**fields) == constraint


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, ErrorCode.INVALID_REQUEST),
        ({"json_object": False}, ErrorCode.INVALID_REQUEST),
        ({"json": SCHEMA, "json_object": True}, ErrorCode.INVALID_REQUEST),
        ({"regex": "a", "choice": ["a"]}, ErrorCode.INVALID_REQUEST),
        ({"regex": "a", "grammar": 'start: "a"'}, ErrorCode.INVALID_REQUEST),
        ({"json": SCHEMA, "whitespace_pattern": " "}, ErrorCode.UNSUPPORTED_PARAMETER),
        ({"structural_tag": {}}, ErrorCode.UNSUPPORTED_PARAMETER),
    ],
)
def test_structured_outputs_refused(fields: dict[str, object], code: ErrorCode) -> None:
    with pytest.raises(ServeError) as caught:
        structured(**fields)
    assert caught.value.code is code


def test_guided_fields_exclude_each_other() -> None:
    raw = msgspec.Raw(b"{}")
    assert guided_constraint(
        json=raw, regex=None, choice=None, grammar=None, name="g"
    ) == JsonSchema({})
    with pytest.raises(ServeError):
        guided_constraint(json=raw, regex="a", choice=None, grammar=None, name="g")
