"""JSON Schema -> a grammar that llguidance enforces exactly, or a refusal that says why not.

Checked here in full, in the frontend: what passes compiles in the engine too. Unknown keywords are
annotations, as JSON Schema says; keywords that constrain are enforced, refused, or (only when the
client did not ask for `strict`) ignored and named in `CompiledGrammar.warnings`.

Three roundings are llguidance's and cannot be refused by name: `format: date` takes 29 February in
every year, `format: time` a leap second in every minute, and `multipleOf: 0.25` asks for both
decimals (7.50, not 7.5).

One call takes milliseconds, at worst half a second, with the interpreter lock released for most of
it: call it from a thread.
"""

import functools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from llguidance import LLMatcher

from lorax_serve.grammar.byte_matcher import byte_matcher
from lorax_serve.grammar.call_schema import Schema
from lorax_serve.grammar.compiled import LLGUIDANCE, CompiledGrammar, compiled_grammar
from lorax_serve.grammar.errors import GrammarTooComplex, InvalidGrammar
from lorax_serve.grammar.parser_limits import parser_limits
from lorax_serve.grammar.schema_bounds import MAX_SCHEMA_BYTES, survey
from lorax_serve.grammar.schema_exactness import inexact_keywords
from lorax_serve.grammar.schema_messages import inexact_warning, refusal, unenforceable, warning

__all__ = ["CompiledGrammar", "json_object_grammar", "json_schema_grammar"]

# One space, or a line break and an indentation: what models write by themselves, and what they
# write best (forced into the most compact form, small models lose count). Bounded, so that a
# model that has lost the thread cannot print blanks until its token limit.
WHITESPACE = r"\x20|\n\x20{0,16}"

# Every character has one spelling: with \u escapes a property named "a", once more spelled
# "\u0061", would pass as an additional one and, being the later, be the one that counts.
ESCAPES = 'nrbtf\\"'

# Seconds for the patterns of one schema; each costs at most a tenth under the parser's limits.
PATTERN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Enforcement:
    one_of_as_any_of: bool = False
    skip_unenforceable: bool = False


EXACT = Enforcement()
RELAXED = (
    Enforcement(one_of_as_any_of=True),
    Enforcement(one_of_as_any_of=True, skip_unenforceable=True),
)


def json_schema_grammar(schema: object, *, strict: bool) -> CompiledGrammar:
    """Texts that are one JSON value satisfying `schema`, a parsed JSON document.

    strict: every constraint is enforced, or InvalidGrammar names one that cannot be. Otherwise
    the first that compiles of: all constraints; `oneOf` as `anyOf`; the rest without keywords and
    formats that cannot be enforced. What was given up is in the result's `warnings`.
    Raises InvalidGrammar, GrammarTooComplex.
    """
    if not isinstance(schema, dict | bool):
        raise InvalidGrammar("A JSON schema must be an object or a boolean.")
    patterns = survey(schema)
    text = _schema_text(schema)
    inexact = inexact_keywords(schema)
    if inexact and strict:
        raise unenforceable(inexact)
    grammar, warnings = _first_that_compiles(text, (EXACT,) if strict else (EXACT, *RELAXED))
    _check_patterns(patterns)
    check_start(byte_matcher(grammar))
    warnings += tuple(inexact_warning(keyword) for keyword in inexact)
    return compiled_grammar(LLGUIDANCE, grammar.encode(), warnings)


@functools.cache
def json_object_grammar() -> CompiledGrammar:
    """Texts that are one JSON object, whatever it holds."""
    return json_schema_grammar({"type": "object"}, strict=True)


def _schema_text(schema: dict[str, object] | bool) -> str:
    if schema is False:
        raise InvalidGrammar("The schema false allows no value.")
    # "x-guidance" at the root would set llguidance's own options, such as ignoring constraints.
    fields = {} if schema is True else {k: v for k, v in schema.items() if k != "x-guidance"}
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except ValueError as error:
        raise InvalidGrammar("The schema holds text or a number that JSON cannot.") from error
    if size > MAX_SCHEMA_BYTES:
        raise GrammarTooComplex(f"The schema is longer than {MAX_SCHEMA_BYTES} bytes.")
    return text


def _first_that_compiles(
    text: str, enforcements: Sequence[Enforcement]
) -> tuple[str, tuple[str, ...]]:
    """The grammar under the first that works, and warnings. Raises the last refusal."""
    for enforcement in enforcements:
        grammar = _grammar_text(text, enforcement)
        is_error, findings = LLMatcher.validate_grammar_with_warnings(
            grammar, limits=parser_limits()
        )
        if not is_error and not (findings and enforcement is EXACT):
            return grammar, tuple(dict.fromkeys(warning(finding) for finding in findings))
    raise refusal(findings[0])


def inline_schema(schema: Schema) -> str:
    """What stands behind `%json` in a Lark grammar for a schema that is enforced exactly."""
    grammar = json.loads(_grammar_text(json.dumps(schema), EXACT))
    return json.dumps(grammar["grammars"][0]["json_schema"])


def _grammar_text(schema_text: str, enforcement: Enforcement) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(
            schema_text,
            overrides={
                "whitespace_pattern": WHITESPACE,
                "json_allowed_escapes": ESCAPES,
                "coerce_one_of": enforcement.one_of_as_any_of,
                "lenient": enforcement.skip_unenforceable,
            },
        )
    except ValueError as error:
        raise refusal(str(error)) from error


def _check_patterns(patterns: Sequence[str]) -> None:
    """Patterns are expanded only when matching reaches them; that must not stall the engine."""
    deadline = time.monotonic() + PATTERN_SECONDS
    for pattern in patterns:
        matcher = byte_matcher(
            _grammar_text(json.dumps({"type": "string", "pattern": pattern}), EXACT)
        )
        if matcher.is_error():
            continue  # no pattern at all, but text of the client's that only looks like one
        matcher.compute_bitmask()
        matcher.consume_token(ord('"'))
        matcher.compute_bitmask()
        if matcher.is_error() or time.monotonic() > deadline:
            raise GrammarTooComplex("A 'pattern' in the schema is too complex.")


def check_start(matcher: LLMatcher) -> None:
    """Some grammars are seen to be hopeless only by matching their first byte."""
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        finding = matcher.get_error()
        if finding.startswith("NoExtension"):
            raise InvalidGrammar("The schema refers only to itself, so it describes no value.")
        raise refusal(finding)
