"""Free text in which each call that a model begins is a whole one, and fits its function's schema.

A family's mark begins a call, whether the vocabulary has it as one token or spells it with several.
A text is what has no mark in it, so that of a text and a call only ever one is possible: where both
were, a mask would allow what either does. What may follow a call is held to what the readers of
calls (`server/text/tool_calls/`) take for no call.

One call takes milliseconds, at worst half a second: call it from a thread.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from lorax_serve.grammar.byte_matcher import byte_matcher
from lorax_serve.grammar.call_rules import RULES, CallFamily, CallRules
from lorax_serve.grammar.call_schema import Schema, any_call, calls_array
from lorax_serve.grammar.compiled import (
    LLGUIDANCE_CONTROL,
    CompiledGrammar,
    compiled_grammar,
    lark_grammar,
)
from lorax_serve.grammar.control_tokens import ControlToken, takes_part
from lorax_serve.grammar.errors import InvalidGrammar
from lorax_serve.grammar.schema import check_start, inline_schema, json_schema_grammar

# Marks that vocabularies may have as tokens, beside the one that begins a call.
CLOSE, CALL_ID, ARGS = "</tool_call>", "[CALL_ID]", "[ARGS]"
NEVER = "NEVER"  # in place of a token that the vocabulary does not have


def tool_call_grammar(
    family: CallFamily,
    functions: Mapping[str, Schema],
    *,
    parallel: bool,
    control_tokens: Sequence[ControlToken],
) -> CompiledGrammar:
    """Texts of a model that may call the functions, by name the schemas of their arguments.

    parallel: there may be several calls. control_tokens: all of the vocabulary, which stand in the
    text where they could outside of any grammar. Raises what `json_schema_grammar` does for a
    forced call, GrammarTooComplex.
    """
    schemas = {name: _of_object(schema) for name, schema in functions.items()}
    rules = RULES[family]
    call = any_call(schemas, rules.orders)
    json_schema_grammar(call, strict=True)  # refuses what cannot be enforced, in its words
    check_start(byte_matcher(lark_grammar(_lark(rules, schemas, call, (), parallel=parallel))))
    lark = _lark(rules, schemas, call, control_tokens, parallel=parallel)
    return compiled_grammar(LLGUIDANCE_CONTROL, lark_grammar(lark).encode())


def _of_object(schema: Schema) -> Schema:
    """The schema of those of its values that are objects: nothing else can be arguments."""
    kinds = schema.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        raise InvalidGrammar("The schema of a function's arguments does not allow an object.")
    # "x-guidance" at a root would set llguidance's own options.
    return {**{k: v for k, v in schema.items() if k != "x-guidance"}, "type": "object"}


def _lark(
    rules: CallRules,
    schemas: Mapping[str, Schema],
    call: Schema,
    tokens: Sequence[ControlToken],
    *,
    parallel: bool,
) -> str:
    """The grammar as it is for a vocabulary with these control tokens."""
    used = f"start: {rules.start if parallel else rules.start_one}\n{rules.rules}"
    added = {
        "MARK": json.dumps(rules.mark),
        "BEGUN_MARK": _any_of(json.dumps(rules.mark[:cut]) for cut in range(1, len(rules.mark))),
        "call": _json(call),
        "calls_array": _json(calls_array(call, at_most_one=not parallel)),
        "bare_call": _any_of(
            f"{json.dumps(name)} args_mark {_json(schema)}" for name, schema in schemas.items()
        ),
        **_tokens(rules, tokens),
    }
    lines = [f"{name}: {body}" for name, body in added.items() if name in used]
    return "\n".join([used, f"{NEVER}: /a/ & /b/", *lines])


def _tokens(rules: CallRules, tokens: Sequence[ControlToken]) -> dict[str, str]:
    beside = [
        token
        for token in tokens
        if not takes_part(token.content, rules.mark)
        and re.fullmatch(rules.token_pattern, token.content)
    ]
    hidden = [token for token in beside if rules.hides_special and token.is_special]
    contents = {
        "mark_token": rules.mark,
        "close_token": CLOSE,
        "call_id_token": CALL_ID,
        "args_token": ARGS,
    }
    return {
        **{
            name: _one_of([token for token in tokens if token.content == content])
            for name, content in contents.items()
        },
        "hidden_token": _one_of(hidden),
        "shown_token": _one_of([token for token in beside if token not in hidden]),
    }


def _one_of(tokens: Sequence[ControlToken]) -> str:
    ids = ",".join(str(token.id) for token in tokens)
    return f"<[{ids}]>" if ids else NEVER


def _any_of(bodies: Iterable[str]) -> str:
    return " | ".join(bodies)


def _json(schema: Schema) -> str:
    return f"%json {inline_schema(schema)}"
