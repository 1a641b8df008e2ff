"""The JSON schema of a call: which function is called, and arguments that fit that function's."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

Schema: TypeAlias = Mapping[str, Any]

NAME: Final = "name"
ARGUMENTS: Final = ("arguments", "parameters")  # what families call them

# What some models write beside a call's name and its arguments.
_LABELS: Final[Schema] = {
    "id": {"type": "string", "maxLength": 64},
    "type": {"const": "function"},
}


def any_call(functions: Mapping[str, Schema], orders: Sequence[Sequence[str]]) -> dict[str, Any]:
    """One call of any of the functions, by name the schemas of their arguments.

    orders: the keys of a call in the order in which they are written, in every order that is
    allowed: `name`, one of ARGUMENTS, and labels, which may be left out. Each function's schema
    lies under `$defs`, and what it refers to in itself is looked for there.
    """
    places = {name: f"#/$defs/f{index}" for index, name in enumerate(functions)}
    return {
        "anyOf": [_call(name, place, keys) for name, place in places.items() for keys in orders],
        "$defs": {
            f"f{index}": _moved(schema, f"#/$defs/f{index}")
            for index, schema in enumerate(functions.values())
        },
    }


def calls_array(call: Schema, *, at_most_one: bool) -> dict[str, Any]:
    """An array of what `any_call` gives, one at least."""
    array = {"type": "array", "items": {"anyOf": call["anyOf"]}, "minItems": 1}
    return {**array, **({"maxItems": 1} if at_most_one else {}), "$defs": call["$defs"]}


def _call(name: str, place: str, keys: Sequence[str]) -> dict[str, Any]:
    arguments = {key: {"$ref": place} for key in ARGUMENTS}
    values = {NAME: {"const": name}, **arguments, **_LABELS}
    return {
        "type": "object",
        "properties": {key: values[key] for key in keys},
        "required": [key for key in keys if key not in _LABELS],
        "additionalProperties": False,
    }


def _moved(value: Any, place: str) -> Any:
    """A schema whose references into itself start at its new place."""
    if isinstance(value, Mapping):
        return {
            key: place + each[1:]
            if key == "$ref" and isinstance(each, str) and each.startswith("#")
            else _moved(each, place)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_moved(each, place) for each in value]
    return value
