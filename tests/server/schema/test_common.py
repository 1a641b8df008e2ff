import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import MalformedBody, ServeError
from lorax_serve.server.schema.common import (
    CONSTRAINT_FIELDS,
    MAX_FIELD_BYTES,
    ObjectShape,
    decode,
)

SURROGATE = "The body has an escaped surrogate without its pair, which is no Unicode text."


class Thing(msgspec.Struct, frozen=True):
    name: str
    count: int = 3
    inner: msgspec.Raw = msgspec.Raw(b"null")


SHAPE = ObjectShape(
    Thing,
    unserved={"wings": (0, []), "colour": ()},
    tolerated=("label",),
    large=("name",),
    path="thing.",
)


def parse(**fields: object) -> tuple[Thing, tuple[str, ...]]:
    return SHAPE.parse(json.dumps(fields).encode())


def refusal(**fields: object) -> ServeError:
    with pytest.raises(ServeError) as caught:
        parse(**fields)
    return caught.value


def test_null_is_absent() -> None:
    thing, ignored = parse(name="a", count=None, wings=None, colour=None, other=None)
    assert (thing.count, ignored) == (3, ())


def test_tolerated_and_unknown_fields() -> None:
    assert parse(name="a", label={"x": 1}, weight=5)[1] == ("thing.weight",)


@pytest.mark.parametrize("value", [0, []])
def test_values_that_ask_for_nothing(value: object) -> None:
    assert parse(name="a", wings=value)[0] == Thing("a")


@pytest.mark.parametrize("value", [1, False, 0.0, "0", [0], {}, [0] * 100])
def test_other_values_of_an_unserved_field(value: object) -> None:
    error = refusal(name="a", wings=value)
    assert error.code is ErrorCode.UNSUPPORTED_PARAMETER
    assert error.param == "thing.wings"


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({}, "`thing.name` is required.", "thing.name"),
        ({"name": 5}, "`thing.name`: Expected `str`, got `int`.", "thing.name"),
        ({"name": "a", "count": "secret"}, "`thing.count`: Expected `int`, got `str`.", None),
    ],
)
def test_a_misfit_names_the_field_and_not_the_value(
    fields: dict[str, object], message: str, param: str | None
) -> None:
    error = refusal(**fields)
    assert error.message == message
    assert error.code is ErrorCode.INVALID_REQUEST
    assert param in (None, error.param)


@pytest.mark.parametrize(
    "name",
    [
        *CONSTRAINT_FIELDS,
        "response_fromat",
        "responseformat",
        "ResponseFormat",
        "reponse_format",
        "guidedJson",
        "guided_decoding_backend",
        "structured_output",
        "output_schema",
        "SCHEMA",
        "regexp",
        "ebnf_grammar",
        "json_mode",
        "constraints",
        "ebnf",
        "structural_tag",
        "choice",
        "Choices",
        "format",
        "output_format",
        "json",
        "pattern",
        "lark",
        "lark_grammar",
        "outlines",
        "guidance",
        "x" * 100 + "schema",
    ],
)
def test_what_looks_like_a_constraint_is_refused(name: str) -> None:
    error = refusal(name="a", **{name: 1})
    assert error.code is ErrorCode.UNSUPPORTED_PARAMETER
    assert len(error.message) < 300


@pytest.mark.parametrize(
    "name",
    [
        "verbosity",
        "user_id",
        "information",
        "formatter",
        "json_indent",
        "patterns_seen",
        "choice_id",
    ],
)
def test_what_does_not_look_like_one_is_not(name: str) -> None:
    assert parse(name="a", **{name: 1})[1] == (f"thing.{name}",)


class Constrained(msgspec.Struct, frozen=True):
    response_format: msgspec.Raw = msgspec.Raw(b"null")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("response_fromat", "did you mean `thing.response_format`"),
        ("guided_json", "it looks like a constraint"),
        ("guided_jsn", "it looks like a constraint"),
        ("json_schema", "it looks like a constraint"),
    ],
)
def test_only_another_field_that_is_served_is_suggested(name: str, hint: str) -> None:
    shape = ObjectShape(Constrained, unserved={}, path="thing.")
    with pytest.raises(ServeError) as caught:
        shape.parse(json.dumps({name: 1}).encode())
    sentence = f"`thing.{name}` is not supported by this server; {hint}."
    assert caught.value.message == sentence
    assert "did you mean" not in refusal(name="a", **{name: 1}).message


class Adapted(msgspec.Struct, frozen=True):
    adapter_id: str = ""
    merged_adapters: msgspec.Raw = msgspec.Raw(b"null")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("adaptr_id", "adapter_id"),
        ("adapter", "adapter_id"),
        ("adapterId", "adapter_id"),
        ("merged_adapter", "merged_adapters"),
    ],
)
def test_whose_answer_it_is_may_not_be_written_wrong(name: str, meant: str) -> None:
    shape = ObjectShape(Adapted, unserved={}, path="thing.")
    with pytest.raises(ServeError, match=f"did you mean `thing.{meant}`"):
        shape.parse(json.dumps({name: "x"}).encode())
    assert parse(name="a", **{name: 1})[1] == (
        f"thing.{name}",
    )  # where there is none, none is meant


def test_only_large_fields_may_be_large() -> None:
    text = "x" * (MAX_FIELD_BYTES + 1)
    assert parse(name=text)[0].name == text
    assert "thing.inner" in refusal(name="a", inner=text).message
    assert "too much" in refusal(name="a", unknown=text).message
    assert parse(name=text, unknown="small")[1] == ("thing.unknown",)


def test_the_number_of_unknown_fields_is_bounded() -> None:
    names = [f"f{i}" for i in range(65)]
    assert len(parse(name="a", **dict.fromkeys(names[:64], 1))[1]) == 64
    assert "too many" in refusal(name="a", **dict.fromkeys(names, 1)).message


def test_a_long_name_is_shortened() -> None:
    assert parse(name="a", **{"q" * 1000: 1})[1] == ("thing." + "q" * 64,)


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inner: "Strict | None" = None
    many: tuple["Strict", ...] = ()


@pytest.mark.parametrize(
    ("value", "path", "field"),
    [
        ({"inern": 1}, "", "inern"),
        ({"inern": 1}, "thing.", "thing.inern"),
        ({"inner": {"x": 1}}, "", "inner.x"),
        ({"inner": {"many": [{}, {"x y": 1}]}}, "thing.", "thing.inner.many[1].x y"),
        ({"inner": {"` - at `$.many": 1}}, "", "inner.` - at `$.many"),
        ({"q" * 1000: 1}, "", "q" * 64),
    ],
)
def test_an_unknown_field_is_named_where_it_is(value: object, path: str, field: str) -> None:
    with pytest.raises(ServeError) as caught:
        decode(json.dumps(value).encode(), Strict, path)
    assert caught.value.param == field
    assert caught.value.message == f"`{field}` is no field that is known here."


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a": NaN}', b"\xff", b"[" * 10**5 + b"]" * 10**5])
def test_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedBody):
        decode(raw, object)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "The body is empty."),
        (b" \r\n", "The body is empty."),
        (b'{"a": "\xff"}', "The body is not UTF-8."),
        ("{}".encode("utf-16"), "The body is not UTF-8."),
        (b'{"a": NaN}', "NaN and Infinity are no JSON numbers."),
        (b'{"a": [1, -Infinity]}', "NaN and Infinity are no JSON numbers."),
        (b'{"a": "NaN", b}', "The body is not valid JSON."),
        (b'{"a": "\\ud800"}', SURROGATE),
        (b'{"a": "\\\\\\ud800 and more"}', SURROGATE),
        (b'{"a": "\\ude00\\ud83d"}', SURROGATE),
        (b'{"a": "\\uD83D\\uDE00", b}', "The body is not valid JSON."),
        (b'{"a": "\\\\ud800", b}', "The body is not valid JSON."),
        (b'{"a": 1', "The body is not valid JSON."),
    ],
)
def test_what_is_malformed_is_said(raw: bytes, sentence: str) -> None:
    with pytest.raises(MalformedBody) as caught:
        decode(raw, object)
    assert caught.value.message == sentence


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        SHAPE.parse(raw)
    except ServeError as error:
        assert error.code is ErrorCode.INVALID_REQUEST
