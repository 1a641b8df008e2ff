import hashlib
import json
import socket
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from grammar_corpus import (
    BOMB_SCHEMAS,
    DOCUMENTS,
    MALFORMED_SCHEMAS,
    SCHEMAS,
    UNENFORCEABLE_SCHEMAS,
)
from grammar_walks import BytesMatcher
from lorax_serve.grammar.errors import GrammarError, GrammarTooComplex, InvalidGrammar
from lorax_serve.grammar.schema import CompiledGrammar, json_object_grammar, json_schema_grammar

PERSON: dict[str, Any] = SCHEMAS["person"]


def accepts(grammar: CompiledGrammar, text: str) -> bool:
    return BytesMatcher(grammar).accepts(text.encode())


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_corpus_compiles_strictly_and_accepts_its_documents(name: str) -> None:
    schema, document = SCHEMAS[name], DOCUMENTS[name]
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(document)

    grammar = json_schema_grammar(schema, strict=True)
    assert grammar.warnings == ()
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    for style in (compact, {"ensure_ascii": False}, {"ensure_ascii": False, "indent": 2}):
        text = json.dumps(document, **style)
        assert accepts(grammar, text), text
        assert not accepts(grammar, text[:-1] + "]}")


def test_the_corpus_has_fifty_schemas_each_with_a_document() -> None:
    assert len(SCHEMAS) >= 50
    assert set(SCHEMAS) == set(DOCUMENTS)


def test_lenient_and_strict_agree_where_nothing_is_dropped() -> None:
    assert json_schema_grammar(PERSON, strict=False) == json_schema_grammar(PERSON, strict=True)


def test_the_digest_is_of_kind_and_payload_and_keeps_property_order() -> None:
    grammar = json_schema_grammar(PERSON, strict=True)
    assert grammar.kind == "llguidance"
    assert grammar.digest == hashlib.sha256(b"llguidance\0" + grammar.payload).hexdigest()
    turned = {**PERSON, "properties": dict(reversed(PERSON["properties"].items()))}
    other = json_schema_grammar(turned, strict=True)
    assert other.digest != grammar.digest
    assert accepts(grammar, '{"name": "x", "age": 1}')
    assert accepts(other, '{"age": 1, "name": "x"}')


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("{}", True),
        ('{"a": {"b": [1, null, true, "x"]}}', True),
        ("[]", False),
        ('"a"', False),
        ("1", False),
        ("", False),
        ("{} ", False),
        (" {}", False),
        ("{}{}", False),
        ('{"a": 1,}', False),
    ],
)
def test_json_object_is_any_object_and_nothing_else(text: str, ok: bool) -> None:
    assert accepts(json_object_grammar(), text) is ok


def test_the_schema_true_is_any_value() -> None:
    grammar = json_schema_grammar(True, strict=True)
    assert all(accepts(grammar, text) for text in ("1", "[]", "{}", "null", '"a"'))


@pytest.mark.parametrize("gap", ["", " ", "\n", "\n  ", "\n" + " " * 16])
def test_usual_blanks_are_allowed(gap: str) -> None:
    text = '{G"name"G:G"x"G,G"age"G:G1G}'.replace("G", gap)
    assert accepts(json_schema_grammar(PERSON, strict=True), text)


@pytest.mark.parametrize("gap", ["  ", "\n\n", "\n" + " " * 17, " \n", "\t", "\r\n", "\n \n"])
def test_blanks_are_bounded(gap: str) -> None:
    grammar = json_schema_grammar(PERSON, strict=True)
    for place in (
        '{G"name": "x", "age": 1}',
        '{"name":G"x", "age": 1}',
        '{"name": "x", "age": 1G}',
    ):
        assert accepts(grammar, place.replace("G", ""))
        assert not accepts(grammar, place.replace("G", gap)), place


OPTIONS = {"lenient": True, "whitespace_flexible": True, "coerce_one_of": True}


def test_options_of_the_library_in_a_schema_have_no_effect() -> None:
    with_options = {"x-guidance": OPTIONS, **PERSON}
    assert json_schema_grammar(with_options, strict=True) == json_schema_grammar(
        PERSON, strict=True
    )
    with pytest.raises(InvalidGrammar, match="'not'"):
        json_schema_grammar({"x-guidance": OPTIONS, "not": {}}, strict=True)


@pytest.mark.parametrize(
    "place",
    [
        lambda inner: {"type": "object", "properties": {"a": inner}},
        lambda inner: {"type": "array", "items": inner},
        lambda inner: {"anyOf": [inner]},
        lambda inner: {"allOf": [inner]},
        lambda inner: {"$defs": {"a": inner}, "$ref": "#/$defs/a"},
        lambda inner: {"$defs": {"a": {"$id": "http://x/a", **inner}}, "$ref": "http://x/a"},
        lambda inner: {"additionalProperties": inner},
    ],
)
def test_options_deeper_down_have_no_effect_either(place: Any) -> None:
    with pytest.raises(InvalidGrammar, match="'not'"):
        json_schema_grammar(place({"x-guidance": OPTIONS, "not": {}}), strict=True)


def test_a_property_may_be_called_like_the_options() -> None:
    schema = {"type": "object", "properties": {"x-guidance": {"type": "integer"}}}
    grammar = json_schema_grammar(schema, strict=True)
    assert accepts(grammar, '{"x-guidance": 1}')
    assert not accepts(grammar, '{"x-guidance": "a"}')


@pytest.mark.parametrize("name", UNENFORCEABLE_SCHEMAS)
def test_what_cannot_be_enforced_is_refused_or_warned_about_by_name(name: str) -> None:
    keyword, schema = UNENFORCEABLE_SCHEMAS[name]
    with pytest.raises(InvalidGrammar) as refused:
        json_schema_grammar(schema, strict=True)
    assert f"'{keyword}'" in refused.value.message
    grammar = json_schema_grammar(schema, strict=False)
    assert any(f"'{keyword}'" in warning for warning in grammar.warnings)


def test_every_dropped_keyword_is_named_once() -> None:
    inner = {"type": "array", "uniqueItems": True, "items": {"format": "idn-email"}}
    schema = {
        "type": "object",
        "properties": {"a": inner, "b": inner, "c": {"oneOf": [{"minimum": 1}, {"maximum": 2}]}},
        "if": {},
        "minProperties": 1,
    }
    warnings = json_schema_grammar(schema, strict=False).warnings
    assert len(warnings) == len(set(warnings))
    for name in ("'uniqueItems'", "'idn-email'", "'oneOf'", "'if'", "maxProperties"):
        assert sum(name in warning for warning in warnings) == 1


def test_one_of_is_relaxed_before_anything_is_dropped() -> None:
    schema = {"oneOf": [{"type": "integer"}, {"type": "number", "maximum": 5}]}
    grammar = json_schema_grammar(schema, strict=False)
    assert grammar.warnings == ("Enforced the schema's keyword 'oneOf' as 'anyOf'.",)
    assert accepts(grammar, "4.5")
    assert not accepts(grammar, "5.5")


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", MALFORMED_SCHEMAS)
def test_malformed_schemas_are_refused_in_one_sentence(name: str, strict: bool) -> None:
    with pytest.raises(InvalidGrammar) as refused:
        json_schema_grammar(MALFORMED_SCHEMAS[name], strict=strict)
    message = refused.value.message
    assert 10 < len(message) < 300
    assert "\n" not in message
    assert message.endswith(".")


def test_an_external_reference_is_not_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        with pytest.raises(InvalidGrammar, match="nothing is fetched"):
            json_schema_grammar({"$ref": f"http://127.0.0.1:{port}/s.json"}, strict=False)
        with pytest.raises(TimeoutError):
            server.accept()


TOO_COMPLEX = {
    "depth_200",
    "depth_5000",
    "repetition_squared",
    "repetition_squared_inside",
    "intersected_searches",
    "enum_200000",
    "required_5000",
    "optional_2000",
    "any_of_3000",
}
NO_VALUE = {"self_reference", "self_reference_any_of", "mutual_reference", "integer_1e30"}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", BOMB_SCHEMAS)
def test_bombs_are_refused_or_compile(name: str, strict: bool) -> None:
    schema = BOMB_SCHEMAS[name]()
    try:
        json_schema_grammar(schema, strict=strict)
        verdict: type[GrammarError] | None = None
    except GrammarError as error:
        verdict = type(error)
    if name in TOO_COMPLEX:
        assert verdict is GrammarTooComplex
    else:
        assert verdict is (InvalidGrammar if name in NO_VALUE else None)


def test_the_size_bound_is_on_the_schema_text() -> None:
    fitting = {"enum": ["x" * (2**16 - 20)]}
    json_schema_grammar(fitting, strict=True)
    with pytest.raises(GrammarTooComplex, match="65536 bytes"):
        json_schema_grammar({"enum": ["x" * 2**16]}, strict=True)


def test_text_that_looks_like_a_pattern_is_not_judged_as_one() -> None:
    schema = {"const": {"pattern": "[", "patternProperties": {"(": 1}}}
    assert accepts(
        json_schema_grammar(schema, strict=True), '{"pattern": "[", "patternProperties": {"(": 1}}'
    )


def test_too_many_patterns_are_refused() -> None:
    schema = {"anyOf": [{"type": "string", "pattern": f"^{i}$"} for i in range(201)]}
    with pytest.raises(GrammarTooComplex, match="patterns"):
        json_schema_grammar(schema, strict=True)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (
            {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
            '{"a": 1, "\\u0061": "x"}',
        ),
        ({"properties": {"é": {"type": "integer"}}}, '{"\\u00e9": "x"}'),
        ({"properties": {"/": {"type": "integer"}}}, '{"\\/": "x"}'),
        ({"properties": {"\b": {"type": "integer"}}}, '{"\\u0008": "x"}'),
        ({"patternProperties": {"^a$": {"type": "integer"}}}, '{"\\u0061": "x"}'),
        ({"patternProperties": {"^a": {"type": "integer"}}}, '{"ab": 1, "\\u0061b": "x"}'),
    ],
)
def test_a_name_cannot_be_disguised_by_escapes(schema: dict[str, Any], text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(text), schema)
    assert not accepts(json_schema_grammar({"type": "object", **schema}, strict=True), text)


def test_every_character_but_control_characters_can_be_written() -> None:
    text = "".join(map(chr, range(32, 0x250))).replace("\x7f", "") + "\b\t\n\f\r日😀"
    for document in (text, {text: text}):
        written = json.dumps(document, ensure_ascii=False)
        assert accepts(json_schema_grammar(True, strict=True), written)
        assert accepts(json_schema_grammar({"const": document}, strict=True), written)


def test_text_that_only_looks_like_a_control_character_is_no_obstacle() -> None:
    grammar = json_schema_grammar({"const": "\\u0001"}, strict=True)
    assert accepts(grammar, '"\\\\u0001"')


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "minProperties": 1},
        {"type": "object", "required": ["a"], "minProperties": 2},
        {**PERSON, "minProperties": 2, "additionalProperties": {"type": "string"}},
        {"const": {"minProperties": 9}},
        {"properties": {"minProperties": {"type": "integer"}}},
    ],
)
def test_a_minimum_of_properties_that_repeated_names_cannot_reach_is_enforced(
    schema: dict[str, Any],
) -> None:
    json_schema_grammar(schema, strict=True)


def test_a_minimum_of_properties_holds_up_to_one_more_than_the_required() -> None:
    schema = {"type": "object", "required": ["a"], "minProperties": 2}
    grammar = json_schema_grammar(schema, strict=True)
    for text in ('{"a": 1, "b": 2}', '{"a": 1, "b": 2, "b": 3}'):
        jsonschema.validate(json.loads(text), schema)
        assert accepts(grammar, text)
    for text in ('{"a": 1}', '{"a": 1, "a": 2}', '{"b": 1, "b": 2}'):
        assert not accepts(grammar, text)


def test_a_minimum_that_is_not_exact_still_counts_names() -> None:
    grammar = json_schema_grammar({"type": "object", "minProperties": 2}, strict=False)
    assert accepts(grammar, '{"a": 1, "b": 2}')
    assert not accepts(grammar, '{"a": 1}')
