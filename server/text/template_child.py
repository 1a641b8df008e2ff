"""The child process that renders the chat template of one adapter, for as long as it is asked to.

`python -P -m lorax_serve.server.text.template_child` reads JSON lines: a `Setup`, answered `Ready`,
then `Render`s, each answered `Rendered` or `Refused`. It ends with its input. Memory is limited
throughout, processor time anew for each line; who goes over that is killed by the kernel.
"""

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO

import msgspec
from msgspec import Struct

from lorax_serve.grammar.child_limits import limit_memory
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.text.chat_template import ChatTemplate


class Setup(Struct, frozen=True):
    sources: dict[str, str]  # by name, the default among them
    special_tokens: Mapping[str, object]
    memory_bytes: int  # of address space
    cpu_seconds: int  # of one line


class Render(Struct, frozen=True, kw_only=True):
    """The arguments of ChatTemplate.render."""

    messages: list[dict[str, object]]
    add_generation_prompt: bool
    continue_final_message: bool
    tools: Sequence[Mapping[str, object]] | None
    documents: Sequence[Mapping[str, object]] | None
    extra: Mapping[str, object]


class Ready(Struct, frozen=True, tag=True):
    shows_tools: bool


class Rendered(Struct, frozen=True, tag=True):
    text: str


class Refused(Struct, frozen=True, tag=True):
    code: ErrorCode
    message: str
    param: str | None


Answer = Ready | Rendered | Refused


def main(stdin: IO[bytes], stdout: IO[bytes]) -> None:
    setup = msgspec.json.decode(stdin.readline(), type=Setup)
    limit_memory(setup.memory_bytes)
    _limit_processor_time(setup.cpu_seconds)
    try:
        template = ChatTemplate.from_sources(setup.sources, setup.special_tokens)
    except StartError as error:
        _say(stdout, Refused(ErrorCode.INVALID_REQUEST, str(error)[:300], "model"))
        return
    _say(stdout, Ready(template.shows_tools))
    while line := stdin.readline():
        _limit_processor_time(setup.cpu_seconds)
        _say(stdout, _answer(template, msgspec.json.decode(line, type=Render)))


def _answer(template: ChatTemplate, asked: Render) -> Answer:
    try:
        return Rendered(
            template.render(
                asked.messages,
                add_generation_prompt=asked.add_generation_prompt,
                continue_final_message=asked.continue_final_message,
                tools=asked.tools,
                documents=asked.documents,
                extra=asked.extra,
            )
        )
    except ServeError as error:
        return Refused(error.code, error.message, error.param)


def _limit_processor_time(seconds: int) -> None:
    """From now on. The hard limit stays: the soft one has to move on with every line."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    end = math.ceil(time.process_time()) + seconds
    resource.setrlimit(
        resource.RLIMIT_CPU, (end if hard == resource.RLIM_INFINITY else min(end, hard), hard)
    )


def _say(stdout: IO[bytes], answer: Answer) -> None:
    stdout.write(msgspec.json.encode(answer) + b"\n")
    stdout.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
