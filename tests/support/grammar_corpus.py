"""Schemas as applications write them, and schemas and patterns as attackers do.

SCHEMAS are closed and bounded (lengths, items, alternatives), so that any model that follows one
finishes: ordinary answers take 20 to 120 tokens. DOCUMENTS holds one valid instance of each.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]


def closed(properties: Mapping[str, Any], required: Sequence[str] | None = None) -> Schema:
    """An object with these properties and no others, all required unless said otherwise."""
    names = list(properties) if required is None else list(required)
    return {
        "type": "object",
        "properties": dict(properties),
        "required": names,
        "additionalProperties": False,
    }


def text(max_length: int, min_length: int = 0) -> Schema:
    return {"type": "string", "minLength": min_length, "maxLength": max_length}


def integer(minimum: int, maximum: int) -> Schema:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def number(minimum: float, maximum: float) -> Schema:
    """In quarters: without a step a model may write digits for ever (and 0.1 is no exact one)."""
    return {"type": "number", "minimum": minimum, "maximum": maximum, "multipleOf": 0.25}


def array(items: Any, max_items: int, min_items: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": min_items, "maxItems": max_items}


def pattern(expression: str) -> Schema:
    return {"type": "string", "pattern": expression}


def one_of_these(*values: Any) -> Schema:
    return {"enum": list(values)}


EMAIL = {"type": "string", "format": "email", "maxLength": 30}
# By itself the format allows 29 February in every year.
DATE = {"type": "string", "format": "date", "pattern": "^[0-9]{4}-[01][0-9]-([01][0-9]|2[0-8])$"}
PERSON = closed({"name": text(24, 1), "age": integer(0, 130)})
ADDRESS = closed({"street": text(24), "city": text(16), "zip": pattern("^[0-9]{5}$")})

SCHEMAS: dict[str, Schema] = {
    "person": PERSON,
    "person_optional_email": closed(
        {"name": text(20), "age": integer(0, 120), "email": EMAIL},
        required=["name", "age"],
    ),
    "person_nested_address": closed({"name": text(20, 1), "address": ADDRESS}),
    "full_name": closed({"first": text(12, 1), "last": text(12, 1)}),
    "contact_list": closed({"contacts": array(PERSON, 3, 1)}),
    "sentiment": closed({"sentiment": one_of_these("positive", "negative", "neutral")}),
    "sentiment_scored": closed(
        {"label": one_of_these("positive", "negative", "neutral"), "score": number(0, 1)}
    ),
    "yes_no": one_of_these("yes", "no"),
    "boolean": {"type": "boolean"},
    "nullable_integer": {"type": ["integer", "null"], "minimum": 0, "maximum": 1000},
    "rating": integer(1, 5),
    "temperature": number(-50, 60),
    "percentage_step": {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 5},
    "quarter_hours": number(0, 24),
    "strictly_between": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 10,
        "multipleOf": 0.5,
    },
    "const_greeting": {"const": "hello"},
    "const_object": {"const": {"status": "ok", "code": 200}},
    "mixed_enum": one_of_these(1, "one", None, True, [1], {"one": 1}),
    "tags": array(text(10, 1), 4, 1),
    "rgb": array(integer(0, 255), 3, 3),
    "matrix": array(array(integer(-9, 9), 2, 2), 2, 2),
    "coordinate_pair": {
        "type": "array",
        "prefixItems": [number(-90, 90), number(-180, 180)],
        "items": False,
        "minItems": 2,
    },
    "empty_object": closed({}),
    "date": DATE,
    "time": {"type": "string", "format": "time", "maxLength": 14},
    "appointment": closed({"on": DATE, "what": text(20), "minutes": integer(5, 240)}),
    "uuid": closed({"id": {"type": "string", "format": "uuid"}}),
    "server_ipv4": closed(
        {"host": {"type": "string", "format": "ipv4"}, "port": integer(1, 65535)}
    ),
    "phone": closed({"phone": pattern("^[0-9]{3}-[0-9]{4}$")}),
    "licence_plate": pattern("^[A-Z]{2}-[0-9]{3}-[A-Z]{2}$"),
    "hex_colour": closed({"colour": pattern("^#[0-9a-f]{6}$")}),
    "version": closed({"version": pattern(r"^[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,3}$")}),
    "pattern_search": {"type": "string", "pattern": "cat", "maxLength": 12},
    "tool_weather": closed(
        {
            "name": {"const": "get_weather"},
            "arguments": closed({"city": text(16, 1), "unit": one_of_these("celsius", "kelvin")}),
        }
    ),
    "tool_union": {
        "anyOf": [
            closed({"name": {"const": "search"}, "arguments": closed({"query": text(24)})}),
            closed({"name": {"const": "stop"}, "arguments": closed({})}),
        ]
    },
    "tool_calls_array": array(
        closed({"tool": one_of_these("open", "close"), "window": integer(1, 4)}), 2, 1
    ),
    "invoice": closed(
        {
            "number": pattern("^INV-[0-9]{4}$"),
            "lines": array(closed({"item": text(12), "count": integer(1, 99)}), 2, 1),
            "total": number(0, 9999),
        }
    ),
    "order_status": closed(
        {
            "order": integer(1, 99999),
            "status": one_of_these("placed", "shipped", "lost"),
            "paid": {"type": "boolean"},
        }
    ),
    "shape_union": {
        "anyOf": [
            closed({"kind": {"const": "circle"}, "radius": integer(0, 99)}),
            closed({"kind": {"const": "box"}, "width": integer(0, 99), "height": integer(0, 99)}),
        ]
    },
    "string_or_number": {"anyOf": [text(12), number(0, 100)]},
    "disjoint_one_of": {
        "oneOf": [{"type": "boolean"}, integer(0, 9), one_of_these("left", "right")]
    },
    "defs_point": {
        "$defs": {"point": closed({"x": integer(-99, 99), "y": integer(-99, 99)})},
        **closed({"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}}),
    },
    "definitions_money": {
        "definitions": {
            "money": closed({"amount": integer(0, 999), "currency": one_of_these("EUR", "USD")})
        },
        **closed({"price": {"$ref": "#/definitions/money"}}),
    },
    "bounded_tree": {
        "$defs": {
            "leaf": closed({"v": integer(0, 9)}),
            "branch": closed({"v": integer(0, 9), "kids": array({"$ref": "#/$defs/leaf"}, 2)}),
        },
        "$ref": "#/$defs/branch",
    },
    "all_of_merged": {
        "allOf": [
            {"type": "object", "properties": {"id": integer(1, 9)}, "required": ["id"]},
            {"type": "object", "properties": {"name": text(10)}, "required": ["name"]},
        ],
        "properties": {"id": True, "name": True},
        "additionalProperties": False,
    },
    "scores_by_name": {
        "type": "object",
        "properties": {"ann": integer(0, 9), "bob": integer(0, 9)},
        "required": ["ann"],
        "additionalProperties": False,
    },
    "quoted_names": closed({'say "hi"': integer(0, 1), "back\\slash": integer(0, 1)}),
    "unicode": closed({"größe": one_of_these("groß", "klein"), "日本": one_of_these("東京", "😀")}),
    "annotated": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Answer",
        "description": "What the model thinks.",
        "type": "object",
        "properties": {
            "answer": {"type": "string", "maxLength": 30, "description": "Short."},
            "confidence": {**number(0, 1), "default": 0.5},
        },
        "required": ["answer", "confidence"],
        "additionalProperties": False,
    },
    "reasoned_choice": closed({"because": text(40), "choice": one_of_these("a", "b", "c", "d")}),
}

DOCUMENTS: dict[str, Any] = {
    "person": {"name": "Ann", "age": 41},
    "person_optional_email": {"name": "Ann", "age": 41, "email": "ann@example.com"},
    "person_nested_address": {
        "name": "Bo",
        "address": {"street": "Low Rd 1", "city": "Ulm", "zip": "89073"},
    },
    "full_name": {"first": "Ada", "last": "Byron"},
    "contact_list": {"contacts": [{"name": "Ann", "age": 1}, {"name": "Bo", "age": 2}]},
    "sentiment": {"sentiment": "neutral"},
    "sentiment_scored": {"label": "positive", "score": 0.75},
    "yes_no": "yes",
    "boolean": False,
    "nullable_integer": None,
    "rating": 4,
    "temperature": -12.25,
    "percentage_step": 35,
    "quarter_hours": 12.25,
    "strictly_between": 9.5,
    "const_greeting": "hello",
    "const_object": {"status": "ok", "code": 200},
    "mixed_enum": {"one": 1},
    "tags": ["new", "red"],
    "rgb": [0, 128, 255],
    "matrix": [[1, -2], [3, 4]],
    "coordinate_pair": [48.25, 9.75],
    "empty_object": {},
    "date": "2024-02-28",
    "time": "12:30:00Z",
    "appointment": {"on": "2025-01-21", "what": "dentist", "minutes": 30},
    "uuid": {"id": "123e4567-e89b-12d3-a456-426614174000"},
    "server_ipv4": {"host": "10.0.0.1", "port": 8080},
    "phone": {"phone": "555-0100"},
    "licence_plate": "AB-123-CD",
    "hex_colour": {"colour": "#00ff7f"},
    "version": {"version": "1.20.3"},
    "pattern_search": "a cat",
    "tool_weather": {"name": "get_weather", "arguments": {"city": "Oslo", "unit": "kelvin"}},
    "tool_union": {"name": "stop", "arguments": {}},
    "tool_calls_array": [{"tool": "open", "window": 2}],
    "invoice": {"number": "INV-0007", "lines": [{"item": "pen", "count": 3}], "total": 4.25},
    "order_status": {"order": 17, "status": "shipped", "paid": True},
    "shape_union": {"kind": "box", "width": 3, "height": 4},
    "string_or_number": 7.25,
    "disjoint_one_of": "left",
    "defs_point": {"from": {"x": 0, "y": -1}, "to": {"x": 9, "y": 9}},
    "definitions_money": {"price": {"amount": 10, "currency": "EUR"}},
    "bounded_tree": {"v": 1, "kids": [{"v": 2}]},
    "all_of_merged": {"id": 3, "name": "x"},
    "scores_by_name": {"ann": 5},
    "quoted_names": {'say "hi"': 1, "back\\slash": 0},
    "unicode": {"größe": "groß", "日本": "😀"},
    "annotated": {"answer": "42", "confidence": 1},
    "reasoned_choice": {"because": "it fits", "choice": "b"},
}


def nested_arrays(depth: int) -> Schema:
    schema: Schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def object_with(count: int, *, required: bool) -> Schema:
    names = [f"p{i}" for i in range(count)]
    return {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in names},
        "required": names if required else [],
    }


def alternatives(count: int) -> Schema:
    return {
        "anyOf": [
            {"type": "object", "properties": {f"k{i}": {}}, "required": [f"k{i}"]}
            for i in range(count)
        ]
    }


# Made on demand: some are megabytes, some too deep to print.
BOMB_SCHEMAS: dict[str, Callable[[], Any]] = {
    "depth_200": lambda: nested_arrays(200),
    "depth_5000": lambda: nested_arrays(5000),
    "repetition_squared": lambda: pattern("^(x{1000}){1000}$"),
    "repetition_squared_inside": lambda: closed({"a": pattern("^(x{1000}){1000}$")}),
    "alternation_800": lambda: pattern("|".join(f"w{i}x" for i in range(800))),
    "exponential_states": lambda: pattern("^(a|b)*a(a|b){22}$"),
    "intersected_searches": lambda: {"allOf": [pattern(f"a.{{{i}}}b") for i in range(1, 12)]},
    "max_length_1e4": lambda: {"type": "string", "maxLength": 10**4},
    "max_length_1e9": lambda: {"type": "string", "maxLength": 10**9},
    "min_items_1e6": lambda: {"type": "array", "minItems": 10**6},
    "min_items_squared": lambda: array(array(True, 10**9, 10**9), 10**9, 10**9),
    "enum_5000": lambda: {"enum": [f"v{i}" for i in range(5000)]},
    "enum_200000": lambda: {"enum": [f"v{i}" for i in range(200_000)]},
    "required_5000": lambda: object_with(5000, required=True),
    "optional_2000": lambda: object_with(2000, required=False),
    "any_of_3000": lambda: alternatives(3000),
    "self_reference": lambda: {"$ref": "#"},
    "self_reference_any_of": lambda: {"anyOf": [{"$ref": "#"}]},
    "mutual_reference": lambda: {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "$ref": "#/$defs/a",
    },
    "endless_required": lambda: closed({"next": {"$ref": "#"}}),
    "integer_1e30": lambda: {"type": "integer", "minimum": -1e30, "maximum": 1e30},
    "multiple_of_1e-9": lambda: {"type": "number", "multipleOf": 1e-9},
}

# Never usable, strict or not.
MALFORMED_SCHEMAS: dict[str, Any] = {
    "a_list": [],
    "a_string": '{"type": "object"}',
    "a_number": 3,
    "nothing": None,
    "false": False,
    "not_json": {"default": object()},
    "integer_key": {"properties": {1: {}}},
    "nan": {"type": "number", "minimum": float("nan")},
    "infinity": {"enum": [float("inf")]},
    "huge_number": {"enum": [10**400]},
    "lone_surrogate": {"enum": ["\ud800"]},
    "unknown_type": {"type": "foo"},
    "type_not_string": {"type": ["string", 3]},
    "properties_list": {"type": "object", "properties": []},
    "property_number": {"type": "object", "properties": {"a": 5}},
    "required_string": {"required": "a"},
    "minimum_string": {"type": "integer", "minimum": "3"},
    "empty_enum": {"enum": []},
    "impossible_range": {"type": "integer", "minimum": 5, "maximum": 3},
    "impossible_length": {"type": "string", "minLength": 5, "maxLength": 2},
    "impossible_type": {"enum": [1], "type": "string"},
    "dangling_reference": {"$ref": "#/$defs/none"},
    "external_reference_http": {"$ref": "http://127.0.0.1:9/schema.json"},
    "external_reference_file": {"$ref": "file:///etc/passwd"},
    "pattern_look_ahead": pattern("(?=a)"),
    "pattern_back_reference": pattern(r"(a)\1"),
    "pattern_unclosed_class": pattern("[a"),
    "pattern_invalid_escape": pattern(r"\q"),
    "control_character_const": {"const": {"a": ["\x01"]}},
    "control_character_enum": {"anyOf": [{"enum": ["a", "\\\x1f"]}]},
}

# Honoured only by ignoring the named keyword: refused when strict, warned about otherwise.
UNENFORCEABLE_SCHEMAS: dict[str, tuple[str, Schema]] = {
    "not": ("not", {"type": "string", "not": {"const": "a"}}),
    "if_then": ("if", {"type": "object", "if": {}, "then": {}, "else": {}}),
    "contains": ("contains", {"type": "array", "contains": {"const": 1}}),
    "unique_items": ("uniqueItems", {"type": "array", "uniqueItems": True}),
    "property_names": ("propertyNames", {"type": "object", "propertyNames": {"maxLength": 3}}),
    "dependent_required": ("dependentRequired", {"dependentRequired": {"a": ["b"]}}),
    "unevaluated": ("unevaluatedProperties", {"unevaluatedProperties": False}),
    "dynamic_reference": ("$dynamicRef", {"$dynamicRef": "#node"}),
    "unknown_format": ("idn-email", {"type": "string", "format": "idn-email"}),
    "overlapping_one_of": ("oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    "min_properties": ("minProperties", {"type": "object", "minProperties": 2}),
    "min_properties_with_required": (
        "minProperties",
        {"type": "object", "required": ["a", "a"], "minProperties": 3},
    ),
    "min_properties_by_pattern": (
        "minProperties",
        {"patternProperties": {"^a": {"minProperties": 1}}, "minProperties": 5},
    ),
    "min_properties_inside": ("minProperties", closed({"const": {"minProperties": 2}})),
    "deep_inside": ("not", closed({"a": array({"type": "integer", "not": {"const": 1}}, 2)})),
}

BOMB_PATTERNS: dict[str, str] = {
    "repetition_squared": "(x{1000}){1000}",
    "exponential_states": "(a|b)*a(a|b){22}",
    "long_text": ".{0,100000}",
    "word_characters": r"(\w{1,1000}\s){1,1000}",
}

REFUSED_PATTERNS: dict[str, str] = {
    "look_ahead": "(?=a)b",
    "look_behind": "(?<=a)b",
    "back_reference": r"(a)\1",
    "unclosed_class": "[a",
    "unclosed_group": "(a",
    "unopened_group": "a)|(b",
    "invalid_escape": r"\q",
    "inner_anchor": "(^a|b)",
    "word_boundary": r"a\b",
    "nothing_to_repeat": "*a",
    "lone_surrogate": "\ud800",
}
