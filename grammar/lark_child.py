"""The child process that tries one Lark grammar and ends.

`python -P -m lorax_serve.grammar.lark_child` reads a JSON line (`LarkRequest`) from standard input
and writes a `LarkFindings` as JSON. A grammar is tried here because llguidance descends into it by
recursion: thousands of rules one within the other overrun the stack, which ends the process. So
that what passes here passes in the engine, this process has a quarter of the usual stack.
"""

import json
import resource
import sys
from dataclasses import asdict, dataclass
from typing import IO

from llguidance import LLMatcher

from lorax_serve.grammar.byte_matcher import byte_matcher
from lorax_serve.grammar.child_limits import limit, limit_resources
from lorax_serve.grammar.compiled import lark_grammar
from lorax_serve.grammar.parser_limits import lark_limits

STACK_BYTES = 2 * 2**20
FIRST_BYTES = 32


@dataclass(frozen=True, slots=True)
class LarkRequest:
    text: str
    memory_bytes: int  # of address space
    cpu_seconds: int

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class LarkFindings:
    """llguidance's own sentences; an error: the grammar cannot be matched."""

    error: str | None
    warnings: tuple[str, ...] = ()


def findings(text: str) -> LarkFindings:
    """Of a grammar, and of its first bytes: what is hopeless is often seen by matching alone."""
    grammar = lark_grammar(text)
    is_error, found = LLMatcher.validate_grammar_with_warnings(grammar, limits=lark_limits())
    if is_error:
        return LarkFindings(found[0])
    matcher = byte_matcher(grammar, lark_limits())
    for _ in range(FIRST_BYTES):
        if matcher.is_error() or matcher.is_stopped():
            break
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        lowest = (mask & -mask).bit_length() - 1
        if not 0 <= lowest < 256:  # nothing but the end, or not even that
            break
        matcher.consume_token(lowest)
    return LarkFindings(matcher.get_error() if matcher.is_error() else None, tuple(found))


def main(stdin: IO[bytes], stdout: IO[bytes]) -> int:
    request = LarkRequest(**json.loads(stdin.readline()))
    limit_resources(memory_bytes=request.memory_bytes, cpu_seconds=request.cpu_seconds)
    limit(resource.RLIMIT_STACK, STACK_BYTES)
    stdout.write(json.dumps(asdict(findings(request.text))).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
