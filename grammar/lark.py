"""Lark grammars of clients -> what llguidance matches, tried first where they can do no harm.

The syntax is llguidance's: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.
Nothing it offers reads a file or fetches anything: `%import` knows the library's own `common`
alone, and a JSON schema within refers to nothing outside. What would have no effect here, or
another one than it has there, is refused: tokens by their names or ids, `temperature` and `stop`.
"""

import asyncio
import json
import math
import re
import sys

from lorax_serve.grammar.cache import ByteBoundedCache
from lorax_serve.grammar.child_process import OutputTooLarge, child_output
from lorax_serve.grammar.compiled import LARK, CompiledGrammar, compiled_grammar, lark_grammar
from lorax_serve.grammar.errors import GrammarError, GrammarTooComplex, InvalidGrammar
from lorax_serve.grammar.lark_child import LarkRequest
from lorax_serve.grammar.schema_messages import TOO_COMPLEX, quoted, warning

MAX_GRAMMAR_BYTES = 64 * 2**10
WALL_SECONDS = 2.0
MEMORY_BYTES = 2**30
CACHE_BYTES = 8 * 2**20
MAX_CHILDREN = 2
MAX_OUTPUT_BYTES = 2**20

CHILD = (sys.executable, "-P", "-m", "lorax_serve.grammar.lark_child")

# Strings, comments and regular expressions, within which nothing is Lark's.
QUOTED = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\\n])+/')
TOKEN = re.compile(r"<[^>\n]*>")
ATTRIBUTE = re.compile(r"\b(stop|temperature)\s*=")


class LarkCompiler:
    """Tries at most MAX_CHILDREN grammars at a time. wall_seconds: of one child, from its start."""

    def __init__(self, *, wall_seconds: float = WALL_SECONDS) -> None:
        self._wall_seconds = wall_seconds
        self._cache: ByteBoundedCache[str, CompiledGrammar] = ByteBoundedCache(CACHE_BYTES)
        self._children = asyncio.Semaphore(MAX_CHILDREN)

    async def lark(self, text: str) -> CompiledGrammar:
        """Texts that the rule `start` derives. Raises InvalidGrammar, GrammarTooComplex."""
        _check(text)
        grammar = self._cache.get(text)
        if grammar is None:
            async with self._children:
                grammar = await self._tried(text)
            self._cache.put(text, grammar, 2 * len(grammar.payload))
        return grammar

    async def _tried(self, text: str) -> CompiledGrammar:
        request = LarkRequest(text, MEMORY_BYTES, math.ceil(self._wall_seconds) + 1)
        try:
            async with asyncio.timeout(self._wall_seconds):
                status, output = await child_output(CHILD, request.line(), MAX_OUTPUT_BYTES)
        except TimeoutError as error:
            seconds = f"{self._wall_seconds:g}"
            raise GrammarTooComplex(f"The grammar takes over {seconds} s to compile.") from error
        except OutputTooLarge as error:
            raise GrammarTooComplex("The grammar is too complex.") from error
        if status < 0:  # a signal: of its limits, or of a stack that was overrun
            raise GrammarTooComplex(
                "The grammar takes too much memory or time to compile, or nests too deeply."
            )
        if status != 0:
            raise RuntimeError(f"the grammar compiler could not run: it exited with {status}")
        found = json.loads(output)
        if found["error"] is not None:
            raise _refusal(found["error"])
        warnings = tuple(dict.fromkeys(map(warning, found["warnings"])))
        return compiled_grammar(LARK, lark_grammar(text).encode(), warnings)


def _check(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidGrammar("The grammar holds a lone surrogate.") from error
    if size > MAX_GRAMMAR_BYTES:
        raise GrammarTooComplex(f"The grammar is longer than {MAX_GRAMMAR_BYTES} bytes.")
    bare = QUOTED.sub(" ", text)
    if "::=" in bare:
        raise InvalidGrammar(
            "The grammar is written in GBNF (`root ::= …`); write it in Lark (`start: …`)."
        )
    if TOKEN.search(bare):
        raise InvalidGrammar("A grammar is of text: it cannot name a token, as in `<…>`.")
    if attribute := ATTRIBUTE.search(bare):
        raise InvalidGrammar(f"The attribute `{attribute[1]}` of a grammar's rule is not served.")


def _refusal(finding: str) -> GrammarError:
    if finding.startswith("NoExtension"):
        return InvalidGrammar("The grammar refers only to itself, so no text fits it.")
    if TOO_COMPLEX.search(finding):
        return GrammarTooComplex("The grammar is too complex.")
    return InvalidGrammar(f"The grammar is refused: {quoted(finding)}.")
