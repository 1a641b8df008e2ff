"""The child process that compiles one regular expression and ends.

`python -P -m lorax_serve.grammar.compile_child` reads a JSON line (`CompileRequest`) and then the
binary form of an outlines_core Vocabulary from standard input. It writes the binary form of the
index to standard output and exits 0, or writes nothing and exits with one of the codes below. It
limits its own memory and processor time first: outlines_core has no limits, and answers a failed
allocation by aborting the process.
"""

import json
import sys
from dataclasses import asdict, dataclass
from typing import IO

from outlines_core import Index, Vocabulary

from lorax_serve.grammar.child_limits import limit_resources
from lorax_serve.grammar.index_vocabulary import marked_source

EXIT_REFUSED = 64  # the expression uses what an automaton cannot do
EXIT_TOO_LARGE = 65  # the index is over max_index_bytes
EXIT_OUT_OF_MEMORY = 66  # while outside outlines_core, which aborts instead


@dataclass(frozen=True, slots=True)
class CompileRequest:
    source: str
    memory_bytes: int  # of address space
    cpu_seconds: int
    max_index_bytes: int

    def header(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def compile_source(source: str, vocabulary: Vocabulary) -> bytes:
    """The binary form of the index. Raises ValueError for what an automaton cannot do."""
    index = Index(marked_source(source), vocabulary)
    binary: bytes = index.__reduce__()[1][0]
    return binary


def main(stdin: IO[bytes], stdout: IO[bytes]) -> int:
    request = CompileRequest(**json.loads(stdin.readline()))
    limit_resources(memory_bytes=request.memory_bytes, cpu_seconds=request.cpu_seconds)
    try:
        index = compile_source(request.source, Vocabulary.from_binary(stdin.read()))
    except ValueError:
        return EXIT_REFUSED
    except MemoryError:
        return EXIT_OUT_OF_MEMORY
    if len(index) > request.max_index_bytes:
        return EXIT_TOO_LARGE
    stdout.write(index)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
