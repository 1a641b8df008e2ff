"""Predibase's gateway over HTTPS: which path in a bucket an adapter's name means.

The token goes to the one host that the operator named, whatever that host answers.
"""

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import aiohttp
import msgspec
import structlog
from msgspec import Struct
from yarl import URL

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.sources.addresses import keeps_secrets
from lorax_serve.server.sources.http_replies import check_status, transport_errors
from lorax_serve.server.sources.http_session import open_session
from lorax_serve.server.sources.source import NotFoundOrForbidden, SourceUnavailable
from lorax_serve.server.version import version

log = structlog.get_logger(__name__)

DEFAULT_GATEWAY: Final = "https://api.app.predibase.com"

_MAX_REPLY_BYTES: Final = 64 * 2**10
_MAX_SHOWN_CHARS: Final = 32

_NAME: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,96}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")

_UNTRAINED: Final = frozenset({"pending", "queued"})
_USABLE: Final = frozenset({"training", "stopping", "stopped", "canceled", "completed", "errored"})

Reply = TypeVar("Reply", bound=Struct)


class _Version(Struct, frozen=True):
    """GET /v2/repos/{name}/version/{version}, as far as it counts."""

    status: str | None = None
    path: str | None = msgspec.field(default=None, name="adapterPath")


class _Run(Struct, frozen=True):
    """GET /v1/models/version/name/{name}, the older catalogue, as far as it counts."""

    uuid: str
    run_id: str = msgspec.field(name="bestRunID")


@dataclass(frozen=True, slots=True)
class PredibaseId:
    name: str
    version: str | None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}/{self.version}"


def parse_predibase_id(adapter_id: str) -> PredibaseId:
    """`repo` or `repo/version`. Raises ServeError (INVALID_REQUEST)."""
    name, slash, number = adapter_id.partition("/")
    if _NAME.fullmatch(name) and (not slash or _NAME.fullmatch(number)):
        return PredibaseId(name, number if slash else None)
    raise ServeError(
        ErrorCode.INVALID_REQUEST,
        "An adapter of Predibase is named repo or repo/version.",
        param="adapter_id",
    )


class PredibaseGateway:
    def __init__(self, url: str, *, stall_seconds: float) -> None:
        """`url` must be https, but for this machine itself. Raises StartError."""
        self._url = _checked(url)
        self._stall_seconds = stall_seconds
        self._opened: aiohttp.ClientSession | None = None

    async def path(self, asked: PredibaseId, token: str | None) -> str:
        """Where the adapter's files are, in the operator's default bucket unless it says s3://.

        Raises:
            SourceError: NotFoundOrForbidden also for want of a token, which is never replaced by
                one of the operator's.
            ServeError: ADAPTER_UNAVAILABLE while the adapter's training has not begun.
        """
        if token is None or not _TOKEN.fullmatch(token):
            raise NotFoundOrForbidden("no token")
        if asked.version is not None:
            address = self._url / "v2/repos" / asked.name / "version" / asked.version
            # What is another's and what is nobody's must take the same time: both are asked twice.
            with suppress(NotFoundOrForbidden):
                return _usable_path(await self._get(address, token, _Version))
        address = self._url / "v1/models/version/name" / asked.name
        if asked.version is not None:
            address = address.with_query(version=asked.version)
        run = await self._get(address, token, _Run)
        return f"{run.uuid}/{run.run_id}/artifacts/model/model_weights"

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _get(self, address: URL, token: str, kind: type[Reply]) -> Reply:
        """The reply's body. A redirect counts as a failure. Raises SourceError."""
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept-Encoding": "identity",
            "User-Agent": f"lorax-serve/{version()}",
        }
        with transport_errors():
            async with self._session().get(
                address, headers=headers, allow_redirects=False
            ) as reply:
                check_status(reply)
                body = await _bounded_body(reply)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise SourceUnavailable("the reply makes no sense") from None

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = open_session(str(self._url), stall_seconds=self._stall_seconds)
        return self._opened


async def _bounded_body(reply: aiohttp.ClientResponse) -> bytes:
    try:
        await reply.content.readexactly(_MAX_REPLY_BYTES)
    except asyncio.IncompleteReadError as error:
        return error.partial
    raise SourceUnavailable("the reply is too long")


def _usable_path(found: _Version) -> str:
    """LoRAX's rule: there is nothing yet before the training; what a training leaves when it ends,
    however it ends, may be used, and so may what it has saved so far.
    """
    if found.status in _UNTRAINED or not found.path:
        status = found.status if found.status in _UNTRAINED | _USABLE else "unknown"
        raise ServeError(
            ErrorCode.ADAPTER_UNAVAILABLE,
            f"The adapter is not available yet; its status is {status}.",
            param="adapter_id",
        )
    if found.status not in _USABLE:
        log.warning("predibase_status_unknown", status=str(found.status)[:_MAX_SHOWN_CHARS])
    return found.path


def _checked(url: str) -> URL:
    parsed = URL(url) if keeps_secrets(url) else None
    if parsed is None or parsed.user or parsed.password or parsed.query_string:
        raise StartError("The Predibase gateway must be an https address without a credential.")
    return parsed
