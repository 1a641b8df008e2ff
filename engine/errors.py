"""What can go wrong in the engine, and the wire code each becomes.

EngineError
├── ModelRefused        the model folder cannot be served; ends the start
├── OutOfBlocks         internal: the allocator is empty; the scheduler preempts
└── RequestError        fails one request, carries an ErrorCode
    └── AdapterRejected the adapter's files are not usable on this base
"""

from collections.abc import Sequence

from lorax_serve.engine.refusal_reasons import grouped, joined
from lorax_serve.ipc.types import ErrorCode

_MAX_MESSAGE_BYTES = 400  # of what the frontend shows


class EngineError(Exception):
    """Base of all engine errors."""


class ModelRefused(EngineError):
    """The model cannot be served; the message says why and what can."""


class OutOfBlocks(EngineError):
    """No free KV block."""


class RequestError(EngineError):
    """Fails one request with a code and one sentence a client may see."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class AdapterRejected(RequestError):
    """The adapter is refused by name, with up to five reasons, fewer where there is no room."""

    def __init__(self, name: str, code: ErrorCode, reasons: Sequence[str]) -> None:
        begin = f"Adapter {name!r} cannot be used: "
        room = _MAX_MESSAGE_BYTES - len(begin.encode(errors="replace")) - 1
        super().__init__(code, f"{begin}{joined(grouped(reasons), max_bytes=room)}.")
        self.reasons = tuple(reasons)
