"""A JSON schema in a few words of HTML: "integer from 1 to 16, or null"."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any, Final

Object = Mapping[str, Any]

_LENGTHS: Final = {
    "string": ("minLength", "maxLength", "characters"),
    "array": ("minItems", "maxItems", "items"),
    "object": ("minProperties", "maxProperties", "fields"),
}


def type_of(schema: Object) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return ", or ".join(type_of(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {_inside(schema['items'])}{_length(schema)}"
        case "object":
            return f"object{_values(schema.get('additionalProperties'))}{_length(schema)}"
        case "string":
            pattern = (
                f" like <code>{escape(schema['pattern'])}</code>" if "pattern" in schema else ""
            )
            return f"string{pattern}{_length(schema)}"
        case "integer" | "number" as kind:
            return f"{kind}{_range(schema)}"
        case None:
            return "anything"
        case kind:
            return escape(kind)


def _inside(schema: Object) -> str:
    return f"({type_of(schema)})" if "anyOf" in schema else type_of(schema)


def _values(schema: Object | None) -> str:
    return f" of {_inside(schema)}" if schema else ""


def _length(schema: Object) -> str:
    low, high, unit = _LENGTHS[schema["type"]]
    match schema.get(low), schema.get(high):
        case None, None:
            return ""
        case least, None:
            return f", at least {least} {unit}"
        case None, most:
            return f", at most {most} {unit}"
        case least, most:
            return f", {least} to {most} {unit}"


def _range(schema: Object) -> str:
    low = schema.get("minimum")
    shown = "" if low is None else f" from {low}"
    if "maximum" in schema:
        return f"{shown} to {schema['maximum']}"
    if "exclusiveMaximum" in schema:
        return f"{shown} to below {schema['exclusiveMaximum']}"
    return shown
