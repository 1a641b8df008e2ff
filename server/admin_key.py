"""The operator's key: whoever presents it may change what is served.

Compared by digest in constant time (`hmac.compare_digest` over SHA-256 of both sides), so neither
its length nor its beginning can be found out by trying.
"""

import functools
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web

from lorax_serve.server.bearer import bearer
from lorax_serve.server.secret import Secret

log = structlog.get_logger(__name__)

_SAFE_CHARS: Final = 16

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminKey:
    def __init__(self, secret: Secret) -> None:
        self._digest = _digest(secret.revealed)
        if len(secret.revealed) < _SAFE_CHARS:
            log.warning("admin_key_short", safe_from_characters=_SAFE_CHARS)

    def is_presented_by(self, request: web.Request) -> bool:
        """`Authorization: Bearer KEY`."""
        return hmac.compare_digest(_digest(bearer(request) or ""), self._digest)

    def guard(self, handler: Handler) -> Handler:
        """`handler` for who has the key, 403 for everybody else before anything of it is read."""

        @functools.wraps(handler)
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self.is_presented_by(request):
                log.warning("admin_key_refused", method=request.method, route=_route(request))
                raise web.HTTPForbidden
            return await handler(request)

        return guarded


def _route(request: web.Request) -> str:
    """Without the names that stand in an address."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
