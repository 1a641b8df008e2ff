"""Chat templates that nobody vouches for, rendered in child processes with limits.

A child has one template for its life, so that whatever a template does to its process is done to
itself alone. Of one template one render is under way at a time and the others wait in order: as
each has one turn among NUM_CHILDREN, a slow template holds up itself first, and others by no more
than its limits. Only so many may wait for one.
"""

import asyncio
import hashlib
import os
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec

from lorax_serve.grammar.child_process import reap
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.text.template_child import Answer, Ready, Refused, Render, Rendered, Setup

CHILD: Final = (sys.executable, "-P", "-m", "lorax_serve.server.text.template_child")
NUM_CHILDREN: Final = 4  # at work at once
MAX_IDLE: Final = 4  # kept for their template's next request
MAX_WAITING: Final = 32  # for one template

# What a child is told of our environment: nothing that could be a secret.
_SHOWN_ENVIRONMENT: Final = ("PYTHONPATH", "TZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLimits:
    """Of one render; starting a child has as much again to compile its template."""

    memory_bytes: int = 2**29  # of address space, Python and its modules included
    cpu_seconds: int = 3
    wall_seconds: float = 10.0
    start_seconds: float = 30.0
    output_bytes: int = 2**25  # of JSON


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    num_users: int = 0


class TemplateChild:
    """One running child. Raises ServeError throughout; what fails half-way is not usable again."""

    def __init__(self, process: asyncio.subprocess.Process, limits: TemplateLimits) -> None:
        self._process = process
        self._limits = limits
        self._is_between_lines = True
        self.shows_tools = False

    @property
    def is_usable(self) -> bool:
        return self._is_between_lines and self._process.returncode is None

    async def prepare(self, setup: Setup) -> None:
        answer = await self._ask(msgspec.json.encode(setup), self._limits.start_seconds)
        if not isinstance(answer, Ready):
            raise _failed()
        self.shows_tools = answer.shows_tools

    async def render(self, asked: Render) -> str:
        answer = await self._ask(msgspec.json.encode(asked), self._limits.wall_seconds)
        if not isinstance(answer, Rendered):
            raise _failed()
        return answer.text

    async def end(self) -> None:
        await reap(self._process)

    async def _ask(self, line: bytes, seconds: float) -> Answer:
        self._is_between_lines = False
        try:
            async with asyncio.timeout(seconds):
                answer: Answer = msgspec.json.decode(await self._exchange(line), type=Answer)
        except (OSError, TimeoutError, ValueError, msgspec.MsgspecError):
            raise _failed() from None  # killed, too slow, too long, or no answer of ours
        self._is_between_lines = True
        if isinstance(answer, Refused):
            raise ServeError(answer.code, answer.message, param=answer.param)
        return answer

    async def _exchange(self, line: bytes) -> bytes:
        """The line that answers; empty where the child died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None  # both are pipes
        stdin.write(line + b"\n")
        await stdin.drain()
        return await stdout.readline()


class IsolatedTemplates:
    """`special_tokens` are the served tokenizer's, by the names that templates know."""

    def __init__(
        self, special_tokens: Mapping[str, object], limits: TemplateLimits | None = None
    ) -> None:
        self._special_tokens = special_tokens
        self._limits = limits or TemplateLimits()
        self._slots = asyncio.Semaphore(NUM_CHILDREN)
        self._turns: dict[bytes, _Turn] = {}
        self._idle: OrderedDict[bytes, TemplateChild] = OrderedDict()  # used last at the end

    @asynccontextmanager
    async def open(self, sources: Mapping[str, str]) -> AsyncIterator[TemplateChild]:
        """A child that has these templates, nobody else's until the context ends.

        Raises:
            ServeError: INVALID_REQUEST where they do not parse, or compiling them takes too much;
                QUEUE_FULL when too many wait for the same.
        """
        key = hashlib.sha256(msgspec.json.encode(sources, order="sorted")).digest()
        async with self._turn(key), self._slots:
            child = self._idle.pop(key, None)
            if child is not None and not child.is_usable:
                await child.end()
                child = None
            if child is None:
                child = await self._started(sources)
            try:
                yield child
            finally:
                await self._put_back(key, child)

    async def close(self) -> None:
        while self._idle:
            await self._idle.popitem()[1].end()

    @asynccontextmanager
    async def _turn(self, key: bytes) -> AsyncIterator[None]:
        turn = self._turns.setdefault(key, _Turn())
        if turn.num_users > MAX_WAITING:
            raise ServeError(
                ErrorCode.QUEUE_FULL, "Too many requests wait for this adapter's chat template."
            )
        turn.num_users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.num_users -= 1
            if not turn.num_users:
                del self._turns[key]

    async def _started(self, sources: Mapping[str, str]) -> TemplateChild:
        process = await asyncio.create_subprocess_exec(
            *CHILD,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=self._limits.output_bytes,
            env={name: os.environ[name] for name in _SHOWN_ENVIRONMENT if name in os.environ},
            start_new_session=True,  # a terminal's Ctrl-C is for the server to handle
        )
        child = TemplateChild(process, self._limits)
        setup = Setup(
            dict(sources),
            self._special_tokens,
            self._limits.memory_bytes,
            self._limits.cpu_seconds,
        )
        try:
            await child.prepare(setup)
        except BaseException:
            await child.end()
            raise
        return child

    async def _put_back(self, key: bytes, child: TemplateChild) -> None:
        if not child.is_usable:
            await child.end()
            return
        self._idle[key] = child
        if len(self._idle) > MAX_IDLE:
            await self._idle.popitem(last=False)[1].end()


def _failed() -> ServeError:
    return ServeError(
        ErrorCode.INVALID_REQUEST,
        "The adapter's chat template failed, or took too much time or memory.",
        param="messages",
    )
