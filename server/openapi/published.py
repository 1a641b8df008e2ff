"""What of the OpenAPI document a server shows."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

OPERATOR: Final = "operator"  # the tag of routes that ask for the admin key, and the key's scheme

_REFERENCE: Final = "#/components/schemas/"


def published(document: bytes, *, has_operator: bool) -> dict[str, Any]:
    """Without the operator's routes where there are none, and what only they need: then nothing
    tells of them.
    """
    shown = msgspec.json.decode(document, type=dict[str, Any])
    if has_operator:
        return shown
    shown["paths"] = {
        path: item
        for path, item in shown["paths"].items()
        if not any(OPERATOR in operation["tags"] for operation in item.values())
    }
    shown["tags"] = [tag for tag in shown["tags"] if tag["name"] != OPERATOR]
    components = shown["components"]
    del components["securitySchemes"][OPERATOR]
    needed = _needed(shown["paths"], components["schemas"])
    components["schemas"] = {n: s for n, s in components["schemas"].items() if n in needed}
    return shown


def _needed(paths: object, schemas: dict[str, Any]) -> set[str]:
    needed: set[str] = set()
    new = set(_references(paths))
    while new:
        needed |= new
        new = {name for found in new for name in _references(schemas[found])} - needed
    return needed


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "$ref" and isinstance(each, str):
                if each.startswith(_REFERENCE):
                    yield each.removeprefix(_REFERENCE)
            else:
                yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)
