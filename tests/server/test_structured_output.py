import asyncio
from typing import cast

import pytest

from lorax_serve.grammar.call_rules import CallFamily
from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.ipc.types import ErrorCode, GrammarKind
from lorax_serve.server.errors import ServeError
from lorax_serve.server.request import (
    Choice,
    Constraint,
    Grammar,
    JsonObject,
    JsonSchema,
    Regex,
    ToolCalls,
)
from lorax_serve.server.structured_output import ConstraintCompiler
from wire import FakeRegexCompiler


def compiler() -> ConstraintCompiler:
    return ConstraintCompiler(cast(RegexCompiler, FakeRegexCompiler()), ())


@pytest.mark.parametrize(
    ("constraint", "kind"),
    [
        (JsonObject(), GrammarKind.LLGUIDANCE),
        (JsonSchema({"type": "integer"}), GrammarKind.LLGUIDANCE),
        (JsonSchema(True, strict=True), GrammarKind.LLGUIDANCE),
        (Regex("a+"), GrammarKind.OUTLINES_INDEX),
        (Choice(("a", "b")), GrammarKind.OUTLINES_INDEX),
        (Grammar('start: "a"'), GrammarKind.LARK),
        (ToolCalls(CallFamily.HERMES, {"f": {}}, parallel=True), GrammarKind.LLGUIDANCE_CONTROL),
    ],
)
async def test_each_constraint_compiles(constraint: Constraint, kind: GrammarKind) -> None:
    spec, warnings = await compiler().compile(constraint)
    assert spec.kind is kind
    assert len(spec.digest) == 64
    assert warnings == ()


async def test_what_is_not_enforced_is_a_warning_or_a_refusal() -> None:
    schema = {"type": "array", "uniqueItems": True}
    _, warnings = await compiler().compile(JsonSchema(schema))
    assert "uniqueItems" in " ".join(warnings)
    with pytest.raises(ServeError) as caught:
        await compiler().compile(JsonSchema(schema, strict=True))
    assert caught.value.code is ErrorCode.INVALID_JSON_SCHEMA


@pytest.mark.parametrize(
    ("constraint", "code"),
    [
        (JsonSchema({"type": "strnig"}), ErrorCode.INVALID_JSON_SCHEMA),
        (JsonSchema([1]), ErrorCode.INVALID_JSON_SCHEMA),
        (JsonSchema(False), ErrorCode.INVALID_JSON_SCHEMA),
        (JsonSchema({"enum": ["x" * 300_000]}), ErrorCode.SCHEMA_TOO_COMPLEX),
        (Regex("("), ErrorCode.INVALID_REGEX),
        (Choice(()), ErrorCode.INVALID_REQUEST),
        (Grammar("start: a"), ErrorCode.INVALID_GRAMMAR),
        (Grammar("start: " + "x" * 65536), ErrorCode.SCHEMA_TOO_COMPLEX),
        (
            ToolCalls(CallFamily.HERMES, {"f": {"not": {}}}, parallel=True),
            ErrorCode.INVALID_JSON_SCHEMA,
        ),
    ],
)
async def test_refusals(constraint: Constraint, code: ErrorCode) -> None:
    with pytest.raises(ServeError) as caught:
        await compiler().compile(constraint)
    assert caught.value.code is code


async def test_the_loop_goes_on_while_schemas_compile() -> None:
    schemas = [JsonSchema({"enum": [f"{i}-{j}" for j in range(2000)]}) for i in range(3)]
    shared = compiler()
    compiling = asyncio.gather(*map(shared.compile, schemas))
    turns = 0
    while not compiling.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 3
    assert len({spec.digest for spec, _ in await compiling}) == 3
