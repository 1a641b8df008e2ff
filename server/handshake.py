"""The first words between a frontend and its engine."""

from collections.abc import Callable

from lorax_serve.ipc.link import FrontendLink, LinkError
from lorax_serve.ipc.messages import (
    AdapterReply,
    EngineFailed,
    EngineReady,
    Hello,
    LoadProgress,
    RequestFailed,
    StepEvents,
    protocol_hash,
)
from lorax_serve.ipc.types import EngineInfo
from lorax_serve.server.errors import StartError

ReportProgress = Callable[[LoadProgress], None]


async def handshake(link: FrontendLink, report: ReportProgress) -> EngineInfo:
    """Say hello, report the loading, and return what the engine serves once it is ready.

    Raises StartError when the engine gives up, speaks another protocol or makes no sense.
    """
    try:
        link.send(Hello(protocol_hash()))
        while True:
            match await link.receive():
                case LoadProgress() as progress:
                    report(progress)
                case EngineFailed(message=message):
                    raise StartError(message)
                case EngineReady() as ready:
                    return _checked(ready)
                case StepEvents() | AdapterReply() | RequestFailed():
                    raise StartError("The engine answers requests that nobody made.")
    except LinkError as error:
        raise StartError(f"Frontend and engine do not understand each other. {error}") from error


def _checked(ready: EngineReady) -> EngineInfo:
    if ready.protocol != protocol_hash():
        raise StartError(
            f"The engine speaks protocol {ready.protocol}, this frontend {protocol_hash()}: "
            "install both from the same build."
        )
    return ready.info
