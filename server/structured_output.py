"""A constraint compiled off the event loop into what the engine's matcher reads."""

import asyncio
from collections.abc import Sequence

from lorax_serve.grammar.call_grammar import tool_call_grammar
from lorax_serve.grammar.compiled import CompiledGrammar
from lorax_serve.grammar.control_tokens import ControlToken
from lorax_serve.grammar.errors import GrammarTooComplex, InvalidGrammar
from lorax_serve.grammar.lark import LarkCompiler
from lorax_serve.grammar.regex_index import RegexCompiler
from lorax_serve.grammar.schema import json_object_grammar, json_schema_grammar
from lorax_serve.ipc.types import ErrorCode, GrammarKind, GrammarSpec
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


class ConstraintCompiler:
    """Schemas one at a time, so that hostile ones cannot take every core and thread."""

    def __init__(
        self, regex_compiler: RegexCompiler, control_tokens: Sequence[ControlToken]
    ) -> None:
        """`control_tokens`: all of the model's vocabulary."""
        self._regex_compiler = regex_compiler
        self._control_tokens = control_tokens
        self._lark_compiler = LarkCompiler()
        self._one_schema = asyncio.Semaphore(1)

    async def compile(self, constraint: Constraint) -> tuple[GrammarSpec, tuple[str, ...]]:
        """The grammar and warnings about what it does not enforce.

        Raises ServeError when the constraint is invalid or too complex to compile.
        """
        try:
            grammar = await self._compile(constraint)
        except InvalidGrammar as error:
            raise ServeError(_invalid(constraint), str(error)) from None
        except GrammarTooComplex as error:
            raise ServeError(ErrorCode.SCHEMA_TOO_COMPLEX, str(error)) from None
        spec = GrammarSpec(GrammarKind(grammar.kind), grammar.payload, grammar.digest)
        return spec, grammar.warnings

    async def _compile(self, constraint: Constraint) -> CompiledGrammar:
        match constraint:
            case JsonObject():
                return json_object_grammar()
            case JsonSchema(schema, strict):
                async with self._one_schema:
                    return await asyncio.to_thread(json_schema_grammar, schema, strict=strict)
            case ToolCalls(family, functions, parallel):
                async with self._one_schema:
                    return await asyncio.to_thread(
                        tool_call_grammar,
                        family,
                        functions,
                        parallel=parallel,
                        control_tokens=self._control_tokens,
                    )
            case Regex(pattern):
                return await self._regex_compiler.regex(pattern)
            case Choice(options):
                return await self._regex_compiler.choice(options)
            case Grammar(text):
                return await self._lark_compiler.lark(text)


def _invalid(constraint: Constraint) -> ErrorCode:
    """What a constraint is called that means nothing."""
    match constraint:
        case JsonObject() | JsonSchema() | ToolCalls():
            return ErrorCode.INVALID_JSON_SCHEMA
        case Regex():
            return ErrorCode.INVALID_REGEX
        case Grammar():
            return ErrorCode.INVALID_GRAMMAR
        case Choice():
            return ErrorCode.INVALID_REQUEST
