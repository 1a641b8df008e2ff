"""At debug level a line for every request: of which route, what became of it, how long it took.

Of what a client wrote only the request id is in it: adapters are called as metrics call them, and
of prompts and answers there is the number of tokens.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiohttp import web

from lorax_serve.server.adapter_records import AdapterRecord
from lorax_serve.server.errors import ServeError
from lorax_serve.server.generation import Piece
from lorax_serve.server.keys import RECEIVED_AT, REQUEST_ID

log = structlog.get_logger(__name__)

CLIENT_LEFT: Final = "client_left"  # the code of a request that nobody waited for


@dataclass(slots=True)
class RequestFacts:
    """What the line says; filled in by whoever knows."""

    adapters: list[str] | None = None  # none of them: the base model
    num_prompt_tokens: int | None = None  # of all prompts
    code: str | None = None  # of the error
    status: int | None = None  # None until a reply is begun
    _num_generated: dict[int, int] = field(default_factory=dict)  # by choice
    _finishes: dict[int, str] = field(default_factory=dict)  # by choice, of those that have ended

    def accepted(self, records: Iterable[AdapterRecord], num_prompt_tokens: int) -> None:
        self.adapters = [record.label for record in records]
        self.num_prompt_tokens = num_prompt_tokens

    async def noting(self, source: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
        """`source`, counted."""
        try:
            async with aclosing(source):
                async for piece in source:
                    self._num_generated[piece.index] = piece.num_tokens
                    if piece.finish is not None:
                        self._finishes[piece.index] = piece.finish.end.value
                    yield piece
        except ServeError as error:  # a stream that has begun ends in one, under status 200
            self.code = error.code.value
            raise

    def fields(self) -> dict[str, object]:
        return {
            "status": self.status,
            "code": self.code,
            "adapters": self.adapters,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_generated_tokens": sum(self._num_generated.values()),
            "finish": [self._finishes[index] for index in sorted(self._finishes)],
        }


FACTS: Final = web.RequestKey("facts", RequestFacts)


@web.middleware
async def log_request(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    facts = request[FACTS] = RequestFacts()
    try:
        reply = await handler(request)
        facts.status = reply.status
        return reply
    except asyncio.CancelledError:  # also of a stream that was torn behind an error
        facts.code = facts.code or CLIENT_LEFT
        raise
    finally:
        resource = request.match_info.route.resource
        log.debug(
            "request",
            request_id=request[REQUEST_ID],
            method=request.method,
            route=None if resource is None else resource.canonical,
            seconds=round(time.monotonic() - request[RECEIVED_AT], 4),
            **facts.fields(),
        )


async def note_status(request: web.Request, reply: web.StreamResponse) -> None:
    """When a reply is begun, which that of a stream is long before its end."""
    if (facts := request.get(FACTS)) is not None:
        facts.status = reply.status
