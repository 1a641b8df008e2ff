"""Is this a JSON Schema of a size we compile? One walk, without recursion, before anything else."""

from lorax_serve.grammar.errors import GrammarTooComplex, InvalidGrammar

MAX_SCHEMA_BYTES = 64 * 2**10
MAX_DEPTH = 100  # nested objects and arrays of the schema text; llguidance's reader ends at 128
MAX_PROPERTIES = 1000  # compile time grows with their square: a thousand take 0.15 s
MAX_PATTERNS = 200


def survey(schema: object) -> tuple[str, ...]:
    """Every different regular expression the schema may hold.

    Raises InvalidGrammar for what is not JSON, GrammarTooComplex over the bounds above.
    """
    patterns: dict[str, None] = {}
    num_values = num_properties = 0
    pending: list[tuple[object, int]] = [(schema, 1)]
    while pending:
        node, depth = pending.pop()
        num_values += 1
        if 2 * num_values > MAX_SCHEMA_BYTES:  # each is at least a character and a separator
            raise GrammarTooComplex(f"The schema is longer than {MAX_SCHEMA_BYTES} bytes.")
        if depth > MAX_DEPTH:
            raise GrammarTooComplex(f"The schema is nested more than {MAX_DEPTH} levels deep.")
        if isinstance(node, dict):
            num_properties += _num_properties(node)
            patterns |= dict.fromkeys(_patterns(node))
            pending += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            pending += [(value, depth + 1) for value in node]
        elif not isinstance(node, str | int | float | bool | None):
            raise InvalidGrammar(f"The schema is not JSON: it holds a {type(node).__name__}.")
    if num_properties > MAX_PROPERTIES:
        raise GrammarTooComplex(f"The schema has more than {MAX_PROPERTIES} properties.")
    if len(patterns) > MAX_PATTERNS:
        raise GrammarTooComplex(f"The schema has more than {MAX_PATTERNS} different patterns.")
    return tuple(patterns)


def _num_properties(node: dict[object, object]) -> int:
    if not all(isinstance(key, str) for key in node):
        raise InvalidGrammar("The schema is not JSON: a key is not a string.")
    named = node.get("properties")
    return len(named) if isinstance(named, dict) else 0


def _patterns(node: dict[object, object]) -> list[str]:
    """Also takes look-alikes inside `const` and `enum`; a pattern too many is only checked."""
    pattern, by_name = node.get("pattern"), node.get("patternProperties")
    found = [pattern] if isinstance(pattern, str) else []
    return found + ([str(name) for name in by_name] if isinstance(by_name, dict) else [])
