"""Bytes to a server and its reply, read as strictly as http.client does."""

import http.client
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

PATIENCE_SECONDS: Final = 60.0  # longer than any limit of the server: what takes it hangs


@dataclass(frozen=True)
class RawReply:
    status: int
    headers: dict[str, str]  # by lower-case names
    body: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0]


def leave(url: str, request: bytes, *, num_read: int) -> bytes:
    """Say no more, read as many bytes of the reply, or all of a shorter one, and go."""
    parts = urlsplit(url)
    read = b""
    with (
        socket.create_connection((parts.hostname, parts.port), PATIENCE_SECONDS) as connection,
        suppress(BrokenPipeError, ConnectionResetError),
    ):
        connection.sendall(request)
        while len(read) < num_read and (piece := connection.recv(num_read - len(read))):
            read += piece
    return read


def exchange(url: str, request: bytes, *, is_head: bool = False) -> RawReply:
    """Raises TimeoutError for a reply that does not end, http.client.HTTPException for none that
    can be read, and for a body that breaks off.
    """
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), PATIENCE_SECONDS) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was read
            connection.sendall(request)
        reply = http.client.HTTPResponse(connection, method="HEAD" if is_head else "POST")
        reply.begin()
        body = reply.read()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        return RawReply(reply.status, headers, body)
