"""Which credential a request brings for its adapter's source.

`api_token` in the body, or the X-Adapter-Token header where there is none. LoRAX takes the
Authorization header too. There a server's own key would come, so here that one counts only where
the operator says that it holds such tokens.
"""

import re
from dataclasses import replace
from typing import Final, TypeVar

from aiohttp import web

from lorax_serve.server.bearer import bearer
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.request import AdapterRequest

Asked = TypeVar("Asked", bound=AdapterRequest)

_HEADER: Final = "X-Adapter-Token"
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")


def with_adapter_token(asked: Asked, request: web.Request) -> Asked:
    """`asked` with the headers' token, where the body has none."""
    return replace(asked, adapter_token=adapter_token(request, asked.adapter_token))


def adapter_token(request: web.Request, api_token: str | None) -> str | None:
    """The body's `api_token`, or the headers' where that is missing or empty."""
    return api_token or header_token(request)


def header_token(request: web.Request) -> str | None:
    """The token of a request without one in its body."""
    own = request.headers.get(_HEADER, "")
    if _TOKEN.fullmatch(own):
        return own
    service = request.app[SERVICE]
    if not service.bearer_is_adapter_token:
        return None
    # The operator's key is this server's own: no source may learn it.
    if service.admin_key is not None and service.admin_key.is_presented_by(request):
        return None
    return bearer(request)
