"""What operators ask of the tiers: load an adapter, keep it on the device, say what is where.

A command waits here until the exchange has what it needs; the loop asks again at every step, after
the scheduler, and nothing blocks. Used by the engine's loop alone.
"""

from collections.abc import Callable, Generator

from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.sequence import SequenceId
from lorax_serve.engine.tier_report import report_pieces
from lorax_serve.ipc.adapter_report import AdapterReport
from lorax_serve.ipc.messages import (
    AdapterAction,
    AdapterCommand,
    AdapterReply,
    RequestFailed,
    ToFrontend,
)
from lorax_serve.ipc.sizes import show_size
from lorax_serve.ipc.types import AdapterRef, ErrorCode

_MAX_WAITING = 1024  # commands


class AdapterDesk:
    """Answers every command exactly once, unless it is aborted first."""

    def __init__(
        self, exchange: AdapterExchange, send: Callable[[bytes, ToFrontend], bool]
    ) -> None:
        self._exchange = exchange
        self._send = send
        self._waiting: dict[SequenceId, AdapterCommand] = {}
        self._reports: dict[SequenceId, Generator[None, None, AdapterReport]] = {}  # begun
        self._pins: dict[AdapterRef, AdapterSlot] = {}  # each holds its slot

    @property
    def is_busy(self) -> bool:
        """Whether `poll` has more to do, though nothing else happens."""
        return bool(self._reports)

    def take(self, frontend: bytes, command: AdapterCommand) -> None:
        if command.adapter is None:
            reports = self._reports
            reports[SequenceId(frontend, command.request_id)] = report_pieces(self._exchange)
        elif command.action is AdapterAction.UNPIN:
            self._unpin(command.adapter)
            self._send(frontend, AdapterReply(command.request_id))
        elif len(self._waiting) >= _MAX_WAITING:
            full = RequestError(ErrorCode.QUEUE_FULL, "Too many adapters are being loaded.")
            self._send(frontend, RequestFailed(command.request_id, full.code, full.message))
        else:
            self._waiting[SequenceId(frontend, command.request_id)] = command

    def abort(self, command_id: SequenceId) -> None:
        """Forget a command that waits. A pin that was made stays."""
        self._reports.pop(command_id, None)
        command = self._waiting.pop(command_id, None)
        if command is not None and command.adapter is not None:
            self._lose_interest(command.adapter)

    def poll(self) -> None:
        """Carry out what can be carried out by now. Never blocks."""
        self._go_on_reporting()
        for command_id, command in tuple(self._waiting.items()):
            assert command.adapter is not None, "reports wait elsewhere"
            answer: ToFrontend
            try:
                if not self._carry_out(command.action, command.adapter):
                    continue
                answer = AdapterReply(command.request_id)
            except RequestError as error:
                answer = RequestFailed(command.request_id, error.code, error.message)
            del self._waiting[command_id]
            self._lose_interest(command.adapter)
            self._send(command_id.frontend, answer)

    def _go_on_reporting(self) -> None:
        """One piece of the oldest report."""
        command_id = next(iter(self._reports), None)
        if command_id is None:
            return
        try:
            next(self._reports[command_id])
        except StopIteration as end:
            del self._reports[command_id]
            self._send(command_id.frontend, AdapterReply(command_id.request_id, end.value))

    def _carry_out(self, action: AdapterAction, ref: AdapterRef) -> bool:
        """Whether it is done; False while the adapter is on its way. Raises RequestError."""
        if ref in self._pins:
            return True
        slot = self._exchange.acquire(ref)
        if slot is None:
            return False
        try:
            if action is AdapterAction.PIN:
                self._pin(ref, slot)
        finally:
            self._exchange.release(slot)
        return True

    def _pin(self, ref: AdapterRef, slot: AdapterSlot) -> None:
        pool = self._exchange.pool
        if not pool.hold(slot):
            raise RequestError(
                ErrorCode.INSUFFICIENT_STORAGE,
                f"Pinning adapter {ref.name!r} would leave too little room for those that are not"
                f" pinned: it takes {show_size(slot.num_bytes)}, {show_size(pool.held_bytes)} are"
                " pinned, and pins may take half of the slots and of the"
                f" {show_size(pool.capacity_bytes)}, with a quarter free in one piece. Unpin"
                " one, or raise --adapter-memory.",
            )
        self._pins[ref] = slot

    def _unpin(self, ref: AdapterRef) -> None:
        slot = self._pins.pop(ref, None)
        if slot is not None:
            self._exchange.pool.unhold(slot)

    def _lose_interest(self, ref: AdapterRef) -> None:
        """Sequences that wait for the same adapter ask for it again, at the next step."""
        if all(command.adapter != ref for command in self._waiting.values()):
            self._exchange.cancel(ref)
