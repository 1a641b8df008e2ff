"""Files over HTTP: resumed by Range, never longer than announced, and no waiting on a silent peer.

Not by huggingface_hub's own download: that one blocks a thread, which nothing can take back from a
stalled peer, and keeps a cache of its own beside our store.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp

from lorax_serve.server.sources.http_replies import check_status, transport_errors
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.sources.source import (
    OnBytes,
    SourceCorrupt,
    SourceError,
    SourceUnavailable,
)
from lorax_serve.server.threads import run_whole

_BLOCK_BYTES: Final = 2**20  # written at once
_SERVED: Final = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
# How a server answers that it does not serve the part that was asked for.
_NO_RANGES: Final = (HTTPStatus.OK, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


class Interrupted(SourceError):
    """The body stopped coming: what is here can be resumed."""


@dataclass(frozen=True, kw_only=True)
class HttpFile:
    """One file to be fetched. `headers` may hold a credential."""

    url: str
    headers: Mapping[str, str]
    num_bytes: int

    def __repr__(self) -> str:
        return f"HttpFile({self.num_bytes} bytes)"


async def fetch_file(
    session: aiohttp.ClientSession,
    file: HttpFile,
    destination: Path,
    on_bytes: OnBytes,
    retries: Retries,
) -> None:
    """Append to `destination` what is missing there; after one interruption it goes on once.

    Raises SourceError, and OSError when the disk refuses.
    """
    for is_last in (False, True):
        try:
            return await retries.run(lambda: _append(session, file, destination, on_bytes))
        except Interrupted as error:
            if is_last:
                raise SourceUnavailable(f"twice {error}") from None


async def _append(
    session: aiohttp.ClientSession, file: HttpFile, destination: Path, on_bytes: OnBytes
) -> None:
    num_held = destination.stat().st_size if destination.exists() else 0
    headers = {**file.headers, "Accept-Encoding": "identity"}
    if num_held:
        headers["Range"] = f"bytes={num_held}-"
    with transport_errors():
        async with session.get(file.url, headers=headers) as reply:
            if num_held and reply.status in _NO_RANGES:
                destination.unlink()
                on_bytes(-num_held)
                num_held = 0
            if reply.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise Interrupted("the range was refused")
            check_status(reply, _SERVED)
            _check_range(reply, num_held, file.num_bytes)
            await _write_body(reply, destination, file.num_bytes - num_held, on_bytes)


def _check_range(reply: aiohttp.ClientResponse, num_held: int, num_bytes: int) -> None:
    """Raises SourceCorrupt before the first byte when the reply is not the missing part."""
    if reply.status == HTTPStatus.PARTIAL_CONTENT:
        expected = f"bytes {num_held}-{num_bytes - 1}/{num_bytes}"
        if reply.headers.get("Content-Range") != expected:
            raise SourceCorrupt("another range was sent than was asked for")
    if reply.content_length not in (None, num_bytes - num_held):
        raise SourceCorrupt(f"{reply.content_length} bytes are sent where {num_bytes} were named")


async def _write_body(
    reply: aiohttp.ClientResponse, destination: Path, num_missing: int, on_bytes: OnBytes
) -> None:
    with destination.open("ab") as file:
        try:
            with transport_errors(Interrupted):
                async for block in reply.content.iter_chunked(_BLOCK_BYTES):
                    num_missing -= len(block)
                    if num_missing < 0:
                        raise SourceCorrupt("more bytes come than were named")
                    await run_whole(file.write, block)
                    on_bytes(len(block))
        finally:
            await run_whole(file.flush)
    if num_missing:
        raise SourceCorrupt("fewer bytes came than were named")
