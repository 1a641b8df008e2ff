"""An HTTP client for one host that the operator named, and wherever it redirects to.

A redirect never leads from https to http, nor from a host of the internet into a network of ours;
aiohttp itself drops the credential when the host changes.
"""

import socket
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from lorax_serve.server.sources.addresses import is_public

CONNECT_SECONDS: Final = 10.0


class UnsafeRedirect(aiohttp.ClientError):
    """The host sends us where it has no business to."""


def open_session(endpoint: str, *, stall_seconds: float) -> aiohttp.ClientSession:
    """On a running event loop. `stall_seconds` is how long a peer may be silent.

    It reads no environment and no .netrc, so that no credential gets in that nobody passed.
    """
    border = Border(URL(endpoint))
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(border.on_redirect)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=border, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=stall_seconds),
        trace_configs=[trace],
    )


class Border(AbstractResolver):
    """Resolves host names, and looks at every address on the other side of a redirect."""

    def __init__(self, endpoint: URL) -> None:
        self._endpoint = endpoint
        self._resolver = ThreadedResolver()
        self._guards = is_public(endpoint.host or "")  # None until its name is resolved

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = all(is_public(result["host"]) for result in found)
        if host == self._endpoint.host:
            self._guards = public
        elif self._guards and not public:
            raise OSError("a redirect leads into a private network")
        return found

    async def on_redirect(
        self,
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceRequestRedirectParams,
    ) -> None:
        """Raises UnsafeRedirect. An address in the URL itself is never resolved, so it is here
        that it is looked at.
        """
        headers = params.response.headers
        try:
            target = params.url.join(URL(headers.get("Location") or headers.get("URI") or ""))
        except ValueError:
            raise UnsafeRedirect from None
        if target.scheme != "https" and self._endpoint.scheme == "https":
            raise UnsafeRedirect
        if self._guards and is_public(target.host or "") is False:
            raise UnsafeRedirect

    async def close(self) -> None:
        await self._resolver.close()
