"""What llguidance compiles without a word and yet does not enforce as JSON Schema means it."""

import json
from collections.abc import Iterator

from lorax_serve.grammar.errors import InvalidGrammar

# Keywords whose value maps names to schemas, so that its keys are no keywords; and those whose
# value is data, in which nothing is a keyword.
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DATA = ("const", "enum", "default", "examples")

MIN_PROPERTIES = "minProperties"


def inexact_keywords(schema: object) -> tuple[str, ...]:
    """The keywords that some document breaks although the grammar of the schema admits it.

    Only `minProperties`: names that are no named property may be written twice, and each counts.
    It holds by itself up to one more than the required names, which nothing can repeat.

    Raises InvalidGrammar for a value that must hold a control character which JSON can only write
    as a \\u escape: no grammar of ours admits those, for a name written with them would pass as
    another one.
    """
    found: dict[str, None] = {}
    for node in _schemas(schema):
        for keyword in ("const", "enum"):
            if keyword in node and _needs_hex_escape(node[keyword]):
                raise InvalidGrammar(
                    f"The schema's keyword '{keyword}' holds a control character that has no "
                    "short escape in JSON; it cannot be enforced."
                )
        minimum = node.get(MIN_PROPERTIES)
        if isinstance(minimum, int) and minimum > _num_required(node) + 1:
            found[MIN_PROPERTIES] = None
    return tuple(found)


def _schemas(schema: object) -> Iterator[dict[str, object]]:
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            yield node
            for keyword, value in node.items():
                if keyword in _SCHEMA_MAPS and isinstance(value, dict):
                    pending += value.values()
                elif keyword not in _DATA:
                    pending.append(value)


def _num_required(node: dict[str, object]) -> int:
    required = node.get("required")
    if not isinstance(required, list):
        return 0
    return len({name for name in required if isinstance(name, str)})


def _needs_hex_escape(value: object) -> bool:
    return "\\u00" in json.dumps(value, ensure_ascii=False).replace("\\\\", "")
