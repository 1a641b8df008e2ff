"""The frontend's view of a ready engine: each request gets its own stream of events back.

Knows messages and request ids, neither processes nor HTTP. Everything runs on one event loop.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from typing import NoReturn, TypeVar

import structlog

from lorax_serve.ipc.adapter_report import AdapterReport
from lorax_serve.ipc.link import FrontendLink, LinkError
from lorax_serve.ipc.messages import (
    Abort,
    AdapterAction,
    AdapterCommand,
    AdapterReply,
    Generate,
    Pool,
    PromptPooled,
    RequestEvent,
    RequestFailed,
    StepEvents,
    ToEngine,
    TokensGenerated,
)
from lorax_serve.ipc.types import AdapterRef, EngineInfo, ErrorCode, RequestId
from lorax_serve.server.errors import ServeError

log = structlog.get_logger(__name__)

_Events = asyncio.Queue[TokensGenerated | PromptPooled | ServeError]
_Event = TypeVar("_Event", TokensGenerated, PromptPooled)


class EngineClient:
    """Speaks over `link` with an engine whose handshake gave `info`; `run` must be running.

    The table of open requests holds exactly those that have been sent and have neither ended nor
    been aborted. An event queue is bounded by what its request may generate.
    """

    def __init__(self, link: FrontendLink, info: EngineInfo) -> None:
        self.info = info
        self._link = link
        self._open: dict[RequestId, _Events] = {}
        self._commands: dict[RequestId, asyncio.Future[AdapterReport | None]] = {}
        self._refusal: ServeError | None = None
        self._none_open = asyncio.Event()
        self._none_open.set()

    @property
    def is_ready(self) -> bool:
        """Whether a new request would be taken."""
        return self._refusal is None

    @property
    def num_open(self) -> int:
        return len(self._open)

    async def run(self) -> NoReturn:
        """Hand each event to its request, until cancelled. Raises LinkError: the engine is lost."""
        while True:
            message = await self._link.receive()
            if isinstance(message, StepEvents):
                for event in message.events:
                    self._deliver(event)
            elif isinstance(message, AdapterReply | RequestFailed):
                self._answer(message)
            else:
                log.warning("unexpected_message", message_type=type(message).__name__)

    async def generate(self, request: Generate) -> AsyncGenerator[TokensGenerated, None]:
        """Send `request` and yield its events up to the one with a finish reason.

        Raises ServeError when the request cannot be taken or fails, EngineLost when the engine
        ends first. Cancelled or closed before its end, it aborts the request; a consumer that may
        stop early uses `contextlib.aclosing`. Nothing is sent before the first iteration.
        """
        events = self._begin(request)
        try:
            while True:
                event = await _next(events, TokensGenerated)
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            self._abandon(request.request_id, events)

    async def pool(self, request: Pool) -> PromptPooled:
        """Send `request` and wait for its vector. Raises as `generate`; cancelled, it aborts."""
        events = self._begin(request)
        try:
            return await _next(events, PromptPooled)
        finally:
            self._abandon(request.request_id, events)

    async def command(
        self, action: AdapterAction, adapter: AdapterRef | None = None
    ) -> AdapterReport | None:
        """Have the engine carry it out; the report that REPORT asks for.

        Raises ServeError when the engine refuses, cannot be asked, or ends first. Cancelled, it
        withdraws the command, which may have been carried out all the same.
        """
        command_id = RequestId(uuid.uuid4().hex)
        self._send(AdapterCommand(command_id, action, adapter))
        answer: asyncio.Future[AdapterReport | None] = asyncio.get_running_loop().create_future()
        self._commands[command_id] = answer
        try:
            return await answer
        finally:
            if self._commands.pop(command_id, None) is not None:
                self._abort(command_id)

    def refuse_new(self, error: ServeError) -> None:
        """Refuse all later requests with `error`; the open ones go on."""
        self._refusal = error

    def fail_all(self, error: ServeError, *, refusal: ServeError | None = None) -> None:
        """End every open request with `error` and refuse all later ones with `refusal`, or it too.

        The engine is told nothing: it is gone, or about to be ended.
        """
        self.refuse_new(error if refusal is None else refusal)
        for request_id in list(self._open):
            self._end(request_id).put_nowait(error)
        while self._commands:
            self._fail(self._commands.popitem()[1], error)

    async def wait_none_open(self) -> None:
        await self._none_open.wait()

    def _begin(self, request: Generate | Pool) -> _Events:
        if request.request_id in self._open:
            raise ValueError(f"request id {request.request_id!r} is in use")
        self._send(request)
        events: _Events = asyncio.Queue()
        self._open[request.request_id] = events
        self._none_open.clear()
        return events

    def _send(self, message: ToEngine) -> None:
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)
        try:
            self._link.send(message)
        except LinkError as error:
            log.error("engine_unreachable", reason=str(error))
            raise ServeError(ErrorCode.QUEUE_FULL, "The engine cannot take requests now.") from None

    def _answer(self, message: AdapterReply | RequestFailed) -> None:
        answer = self._commands.pop(message.request_id, None)
        if answer is None:
            return  # it left the engine before our Abort came in
        if isinstance(message, RequestFailed):
            self._fail(answer, ServeError(message.code, message.message))
        elif not answer.done():  # its caller may have been cancelled a moment ago
            answer.set_result(message.report)

    @staticmethod
    def _fail(answer: asyncio.Future[AdapterReport | None], error: ServeError) -> None:
        if not answer.done():
            answer.set_exception(error.with_traceback(None))

    def _deliver(self, event: RequestEvent) -> None:
        events = self._open.get(event.request_id)
        if events is None:
            return  # it left the engine before our Abort came in
        if isinstance(event, RequestFailed):
            self._end(event.request_id).put_nowait(ServeError(event.code, event.message))
            return
        if isinstance(event, PromptPooled) or event.finish_reason is not None:
            self._end(event.request_id)
        events.put_nowait(event)

    def _end(self, request_id: RequestId) -> _Events:
        events = self._open.pop(request_id)
        if not self._open:
            self._none_open.set()
        return events

    def _abandon(self, request_id: RequestId, events: _Events) -> None:
        """Abort the request, unless it has ended."""
        if self._open.get(request_id) is not events:
            return
        self._end(request_id)
        self._abort(request_id)

    def _abort(self, request_id: RequestId) -> None:
        try:
            self._link.send(Abort(request_id))
        except LinkError as error:
            log.error("engine_unreachable", reason=str(error))


async def _next(events: _Events, kind: type[_Event]) -> _Event:
    """Raises ServeError where that is what comes."""
    event = await events.get()
    if isinstance(event, ServeError):
        raise event.with_traceback(None)
    assert isinstance(event, kind), "the engine answered with another kind of event"
    return event
