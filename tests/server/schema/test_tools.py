"""What a forced call has to be, against jsonschema and pydantic's schemas."""

import json
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from lorax_serve.grammar.call_rules import CallFamily
from lorax_serve.grammar.schema import json_schema_grammar
from lorax_serve.server.request import ToolCalls
from lorax_serve.server.schema.tools import AskedTools, Function, ToolMode, calls_schema


class Leaf(BaseModel):
    value: int


class Tree(BaseModel):
    leaf: Leaf
    more: list["Tree"] = []


FUNCTIONS = (
    Function("tree", parameters=Tree.model_json_schema()),
    Function("leaf", parameters=Leaf.model_json_schema()),
    Function("nothing"),
)
TREE = {"leaf": {"value": 1}, "more": [{"leaf": {"value": 2}}]}


def call(name: str, parameters: object) -> dict[str, object]:
    return {"name": name, "parameters": parameters}


@pytest.mark.parametrize(
    ("calls", "fits"),
    [
        ([call("tree", TREE)], True),
        ([call("leaf", {"value": 1}), call("nothing", {})], True),
        ([], False),
        ([call("tree", {"leaf": {"value": "x"}})], False),
        ([call("tree", {"leaf": {"value": 1}, "more": [{"leaf": {}}]})], False),
        ([call("leaf", TREE)], False),
        ([call("other", {})], False),
        ([{"name": "nothing"}], False),
        ([call("nothing", {}) | {"more": 1}], False),
    ],
)
def test_an_array_of_calls_each_with_its_own_parameters(calls: Any, fits: bool) -> None:
    schema = calls_schema(FUNCTIONS, at_most_one=False)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(calls) == fits


def test_at_most_one() -> None:
    one = jsonschema.Draft202012Validator(calls_schema(FUNCTIONS, at_most_one=True))
    assert one.is_valid([call("nothing", {})])
    assert not one.is_valid([call("nothing", {})] * 2)


def test_the_grammar_enforces_all_of_it() -> None:
    assert (
        json_schema_grammar(calls_schema(FUNCTIONS, at_most_one=False), strict=True).warnings == ()
    )


def test_the_functions_own_schemas_stay_as_they_are() -> None:
    before = json.dumps(FUNCTIONS[0].parameters)
    calls_schema(FUNCTIONS, at_most_one=False)
    assert json.dumps(FUNCTIONS[0].parameters) == before


def test_where_the_model_decides_strict_functions_keep_their_schemas_and_others_take_any() -> None:
    schema = Leaf.model_json_schema()
    strict, loose = Function("a", parameters=schema, strict=True), Function("b", parameters=schema)
    tools = AskedTools((strict, loose), ToolMode.AUTO, parallel=False, is_old=False)
    held = ToolCalls(CallFamily.HERMES, {"a": schema, "b": {"type": "object"}}, parallel=False)
    assert tools.constraint(CallFamily.HERMES) == held
    assert tools.constraint(None) is None
    none_strict = AskedTools((loose,), ToolMode.AUTO, parallel=True, is_old=False)
    assert none_strict.constraint(CallFamily.HERMES) is None
