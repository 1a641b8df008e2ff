"""What a frontend process is told when it starts, in one JSON line on its standard input, and the
words that it and the process that started it have for each other after that.

Credentials are in that line, so they are in no argument and in no variable.
"""

import enum
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from lorax_serve.server.config import ServerConfig, Settings
from lorax_serve.server.model_source import ModelSource
from lorax_serve.server.secret import Secret

_LEAST_CACHE_BYTES = 2**20


class Order(enum.Enum):
    """To a frontend, a line each."""

    SERVE = "serve"
    STOP = "stop"  # let open requests end
    INSIST = "insist"  # fail what is open
    LOST = "lost"  # the engine has ended


class Stage(enum.Enum):
    """Of a frontend's start."""

    PREPARED = "prepared"  # all but HTTP
    SERVING = "serving"
    FAILED = "failed"


class Report(Struct, frozen=True):
    """From a frontend, a JSON line each."""

    stage: Stage
    message: str = ""  # why it failed, for the operator


class FrontendStart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    config: ServerConfig  # its limits are this frontend's part
    source: ModelSource
    all_concurrent_requests: int  # of all frontends
    log_level: str
    logs_json: bool
    wants_colors: bool
    endpoint: str  # of the engine
    folder: Path  # private, of this server
    index: int  # of num_frontends, from 0
    num_frontends: int
    socket_fds: tuple[int, ...]  # inherited: bound, not listening
    tenant_secret: Secret  # in hexadecimal; the engine compares what they all make with it
    started_at: int  # Unix seconds

    def encode(self) -> bytes:
        """A line, without its end."""
        return msgspec.json.encode(self, enc_hook=_path_text)

    @classmethod
    def decode(cls, line: bytes) -> "FrontendStart":
        return msgspec.json.decode(line, type=cls, dec_hook=_path)


def frontend_starts(
    settings: Settings,
    source: ModelSource,
    sockets: Sequence[socket.socket],
    endpoint: str,
    folder: Path,
) -> list[FrontendStart]:
    """One for each frontend of a server."""
    config, number = settings.server, settings.server.frontends
    tenant_secret, started_at = Secret(secrets.token_hex(32)), int(time.time())
    return [
        FrontendStart(
            config=_part(config, index),
            source=source,
            all_concurrent_requests=config.max_concurrent_requests,
            log_level=settings.log_level.value,
            logs_json=settings.logs_json,
            wants_colors=settings.surroundings.wants_colors,
            endpoint=endpoint,
            folder=folder,
            index=index,
            num_frontends=number,
            socket_fds=tuple(each.fileno() for each in sockets),
            tenant_secret=tenant_secret,
            started_at=started_at,
        )
        for index in range(number)
    ]


def _part(config: ServerConfig, index: int) -> ServerConfig:
    """With this frontend's part of what the server may do at a time, and keep. They sum up to the
    whole, but for what each has to have one of.
    """

    def of(whole: int) -> int:
        return whole // config.frontends + (index < whole % config.frontends)

    return msgspec.structs.replace(
        config,
        max_concurrent_requests=of(config.max_concurrent_requests),
        max_waiting_requests=of(config.max_waiting_requests),
        max_adapter_downloads=max(of(config.max_adapter_downloads), 1),
        adapter_cache_bytes=max(of(config.adapter_cache_bytes), _LEAST_CACHE_BYTES),
    )


def _path_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be told to a frontend")


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} cannot be told to a frontend")
