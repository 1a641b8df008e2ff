"""Why an adapter is refused, before anybody has put its name to it."""

from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import ErrorCode

_MAX_SHOWN = 120  # characters of anything that came out of an adapter's files


class Refusal(Exception):
    """The code and the reasons; `read_adapter` turns it into AdapterRejected."""

    def __init__(self, code: ErrorCode, *reasons: str) -> None:
        super().__init__(*reasons)
        self.code = code
        self.reasons = reasons

    def named(self, name: str) -> AdapterRejected:
        return AdapterRejected(name, self.code, self.reasons)


class Misfit(Refusal):
    """Incompatible, because this base has other modules, or of other shapes."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(ErrorCode.ADAPTER_INCOMPATIBLE, *reasons)


def corrupt(*reasons: str) -> Refusal:
    """The files are damaged: they mean nothing on any base."""
    return Refusal(ErrorCode.ADAPTER_CORRUPT, *reasons)


def changed(*reasons: str) -> Refusal:
    """The files are not those that the request meant; what lies there now may be sound."""
    return Refusal(ErrorCode.ADAPTER_CHANGED, *reasons)


def not_finite(*reasons: str) -> Refusal:
    """The files are whole, but not all of it are numbers that can be computed with."""
    return Refusal(ErrorCode.ADAPTER_NOT_FINITE, *reasons)


def incompatible(*reasons: str) -> Refusal:
    """The files are sound, but not for this base or not for this server."""
    return Refusal(ErrorCode.ADAPTER_INCOMPATIBLE, *reasons)


def shown(value: object) -> str:
    """A value from the adapter's files, quoted and cut so that a message stays readable."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
