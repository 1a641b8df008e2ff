"""A request's tools, in OpenAI's two ways to write them, and what is to be done with them."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from msgspec import Meta, Raw, Struct

from lorax_serve.grammar.call_rules import CallFamily
from lorax_serve.grammar.call_schema import NAME, any_call, calls_array
from lorax_serve.server.request import Constraint, JsonSchema, ToolCalls
from lorax_serve.server.schema.common import decode, given_json, invalid, unsupported

MAX_TOOLS: Final = 128

S = TypeVar("S", bound=Struct)

FunctionName = Annotated[str, Meta(pattern=r"\A[a-zA-Z0-9_.-]{1,64}\Z")]


class Function(Struct, frozen=True, forbid_unknown_fields=True):
    """`strict` holds calls to the schema and refuses one that cannot be enforced exactly."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "object", "properties": {}} if self.parameters is None else self.parameters

    def shown(self) -> dict[str, Any]:
        """What a chat template reads."""
        given = {"description": self.description, "parameters": self.parameters}
        fields = {name: value for name, value in given.items() if value is not None}
        return {"type": "function", "function": {"name": self.name, **fields}}


class Tool(Struct, frozen=True):
    type: str
    function: Function | None = None


Tools = Annotated[tuple[Tool, ...], Meta(max_length=MAX_TOOLS)]
Functions = Annotated[tuple[Function, ...], Meta(max_length=MAX_TOOLS)]


class _Named(Struct, frozen=True):
    name: str


class _Allowed(Struct, frozen=True, forbid_unknown_fields=True):
    mode: str
    tools: Annotated[tuple["_Choice", ...], Meta(min_length=1, max_length=MAX_TOOLS)]


class _Choice(Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    function: _Named | None = None
    allowed_tools: _Allowed | None = None


ToolChoice = Literal["none", "auto", "required"] | _Choice
FunctionChoice = Literal["none", "auto"] | _Named


class ToolMode(enum.Enum):
    AUTO = "auto"  # the model decides
    REQUIRED = "required"  # one call at least
    NAMED = "named"  # one call of one function


@dataclass(frozen=True, slots=True)
class AskedTools:
    """Functions that may be called, one at least."""

    functions: tuple[Function, ...]
    mode: ToolMode
    parallel: bool
    is_old: bool  # asked for as `functions`: answered as `function_call`

    def shown(self) -> list[dict[str, Any]]:
        return [function.shown() for function in self.functions]

    @property
    def is_strict(self) -> bool:
        """Whether a schema is to be kept to, exactly."""
        return any(function.strict for function in self.functions)

    def constraint(self, family: CallFamily | None) -> Constraint | None:
        """What the answer has to be. `family` is how the model writes calls by itself, if it does:
        where it decides, its calls are held to what is strict, and no constraint otherwise.
        """
        if self.mode is ToolMode.AUTO:
            return self._chosen_calls(family) if family and self.is_strict else None
        if self.mode is ToolMode.NAMED:
            (function,) = self.functions
            return JsonSchema(function.schema, bool(function.strict))
        schema = calls_schema(self.functions, at_most_one=not self.parallel)
        return JsonSchema(schema, self.is_strict)

    def _chosen_calls(self, family: CallFamily) -> ToolCalls:
        schemas = {
            function.name: function.schema if function.strict else {"type": "object"}
            for function in self.functions
        }
        return ToolCalls(family, schemas, self.parallel)


def asked_tools(tools: Sequence[Tool], choice: Raw, *, parallel: bool | None) -> AskedTools | None:
    """None where there are none, or none may be called. Raises ServeError."""
    functions = [_function(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    _check_distinct(functions, "tools")
    mode, names = _mode(choice, bool(functions))
    if mode is None or not functions:
        return None
    allowed = _allowed(functions, names, "tool_choice")
    return AskedTools(allowed, mode, parallel is not False, is_old=False)


def asked_functions(functions: Sequence[Function], choice: Raw) -> AskedTools | None:
    """The same of the deprecated fields, which know one call only."""
    _check_distinct(functions, "functions")
    given = given_json(choice)
    value = "auto" if given is None else _word_or(_Named, given, "function_call")
    if value not in ("auto", "none") and isinstance(value, str):
        raise invalid("function_call", "must be auto, none or a function's name in an object")
    if value == "none" or not functions:
        if isinstance(value, _Named):
            raise invalid("function_call", "needs `functions`")
        return None
    if isinstance(value, _Named):
        allowed = _allowed(functions, (value.name,), "function_call")
        return AskedTools(allowed, ToolMode.NAMED, parallel=False, is_old=True)
    return AskedTools(tuple(functions), ToolMode.AUTO, parallel=False, is_old=True)


def _function(tool: Tool, path: str) -> Function:
    if tool.type != "function":
        raise unsupported(f"{path}.type", "only functions are served")
    if tool.function is None:
        raise invalid(f"{path}.function", "is missing")
    return tool.function


def _check_distinct(functions: Sequence[Function], field: str) -> None:
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise invalid(field, "names a function twice")


def _mode(choice: Raw, has_tools: bool) -> tuple[ToolMode | None, tuple[str, ...] | None]:
    """And the functions that may be called, if not all; None: none may."""
    given = given_json(choice)
    value = "auto" if given is None else _word_or(_Choice, given, "tool_choice")
    if value == "none":
        return None, None
    if given is not None and not has_tools:
        raise invalid("tool_choice", "needs `tools`")
    if isinstance(value, str):
        if value not in ("auto", "required"):
            raise invalid("tool_choice", "must be none, auto, required or an object")
        return ToolMode(value), None
    if value.type == "allowed_tools" and value.allowed_tools is not None:
        if value.allowed_tools.mode not in ("auto", "required"):
            raise invalid("tool_choice.allowed_tools.mode", "must be auto or required")
        names = tuple(map(_chosen, value.allowed_tools.tools))
        return ToolMode(value.allowed_tools.mode), names
    return ToolMode.NAMED, (_chosen(value),)


def _word_or(kind: type[S], raw: bytes, field: str) -> str | S:
    """A field that is a word or an object. Raises ServeError."""
    value = decode(raw, object, field)
    return value if isinstance(value, str) else decode(raw, kind, field)


def _chosen(choice: _Choice) -> str:
    if choice.type != "function":
        raise unsupported("tool_choice.type", "only functions are served")
    if choice.function is None:
        raise invalid("tool_choice.function", "is missing")
    return choice.function.name


def _allowed(
    functions: Sequence[Function], names: tuple[str, ...] | None, field: str
) -> tuple[Function, ...]:
    if names is None:
        return tuple(functions)
    known = {function.name: function for function in functions}
    if unknown := [name for name in names if name not in known]:
        raise invalid(field, f"names {unknown[0][:64]!r}, which is no function of this request")
    return tuple(known[name] for name in dict.fromkeys(names))


def calls_schema(functions: Sequence[Function], *, at_most_one: bool) -> dict[str, Any]:
    """An array of calls, `{"name": …, "parameters": …}`."""
    schemas = {function.name: function.schema for function in functions}
    return calls_array(any_call(schemas, [(NAME, "parameters")]), at_most_one=at_most_one)
