"""Regular expressions and choices -> an outlines_core index, compiled where it can be killed.

outlines_core builds the whole automaton at once, over every token of the vocabulary: a line of
pattern can ask for minutes and gigabytes, and a thread that does so cannot be stopped. So each
compilation is a child process with bounds on time, memory and output.
"""

import asyncio
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from lorax_serve.grammar.cache import ByteBoundedCache
from lorax_serve.grammar.child_process import OutputTooLarge, child_output
from lorax_serve.grammar.compile_child import (
    EXIT_OUT_OF_MEMORY,
    EXIT_REFUSED,
    EXIT_TOO_LARGE,
    CompileRequest,
)
from lorax_serve.grammar.compiled import OUTLINES_INDEX, CompiledGrammar, compiled_grammar
from lorax_serve.grammar.errors import GrammarTooComplex, InvalidGrammar
from lorax_serve.grammar.index_vocabulary import index_vocabulary
from lorax_serve.grammar.regex_source import choice_source, pattern_source
from lorax_serve.grammar.vocabulary import load_vocabulary

DEFAULT_WALL_SECONDS = 2.0
DEFAULT_MEMORY_BYTES = 2**30
DEFAULT_CACHE_BYTES = 64 * 2**20
MAX_INDEX_BYTES = 32 * 2**20
MAX_CHILDREN = 2

CHILD = (sys.executable, "-P", "-m", "lorax_serve.grammar.compile_child")


class RegexCompiler:
    """Compiles for one model's tokenizer; at most MAX_CHILDREN compilations at a time.

    wall_seconds: of one child, from its start; memory_bytes: its address space; cache_bytes: of
    compiled indices kept, the least recently used dropped. Raises UnsupportedTokenizer.
    """

    def __init__(
        self,
        tokenizer_json: Path,
        eos_token_ids: Sequence[int],
        *,
        wall_seconds: float = DEFAULT_WALL_SECONDS,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        vocabulary = index_vocabulary(load_vocabulary(tokenizer_json, eos_token_ids))
        self._vocabulary: bytes = vocabulary.__reduce__()[1][0]
        self._wall_seconds = wall_seconds
        self._memory_bytes = memory_bytes
        self._cache: ByteBoundedCache[str, CompiledGrammar] = ByteBoundedCache(cache_bytes)
        self._children = asyncio.Semaphore(MAX_CHILDREN)

    async def regex(self, pattern: str) -> CompiledGrammar:
        r"""Texts that match the whole pattern, in the syntax of Rust's regex crate.

        Anchors around the pattern are accepted and change nothing. `\d`, `\w`, `\s` are Unicode.
        Raises InvalidGrammar (also for look-around, back-references and inner anchors),
        GrammarTooComplex.
        """
        return await self._compile(pattern_source(pattern))

    async def choice(self, options: Sequence[str]) -> CompiledGrammar:
        """Texts that are one of the options. Raises InvalidGrammar, GrammarTooComplex."""
        return await self._compile(choice_source(options))

    async def _compile(self, source: str) -> CompiledGrammar:
        cached = self._cache.get(source)
        if cached is not None:
            return cached
        async with self._children:
            # Someone may have asked for the same while this request waited.
            cached = self._cache.get(source)
            if cached is None:
                cached = compiled_grammar(OUTLINES_INDEX, await self._run_child(source))
                self._cache.put(source, cached, len(cached.payload) + len(source))
        return cached

    async def _run_child(self, source: str) -> bytes:
        request = CompileRequest(
            source=source,
            memory_bytes=self._memory_bytes,
            cpu_seconds=math.ceil(self._wall_seconds) + 1,
            max_index_bytes=MAX_INDEX_BYTES,
        )
        try:
            async with asyncio.timeout(self._wall_seconds):
                status, output = await child_output(
                    CHILD, request.header() + self._vocabulary, MAX_INDEX_BYTES
                )
        except OutputTooLarge as error:
            raise _too_large() from error
        except TimeoutError as error:
            raise GrammarTooComplex(
                f"The regex takes over {self._wall_seconds:g} s to compile."
            ) from error
        if status == EXIT_REFUSED:
            raise InvalidGrammar(
                "The regex is refused: it has an anchor or word boundary inside, or needs "
                "characters that this model's tokens cannot spell."
            )
        if status == EXIT_TOO_LARGE:
            raise _too_large()
        if status < 0 or status == EXIT_OUT_OF_MEMORY:  # a signal: of its limits, or an abort
            raise GrammarTooComplex("The regex takes too much memory or time to compile.")
        if status != 0:
            raise RuntimeError(f"the regex compiler could not run: it exited with {status}")
        return output


def _too_large() -> GrammarTooComplex:
    return GrammarTooComplex(f"The compiled regex is over {MAX_INDEX_BYTES} bytes.")
