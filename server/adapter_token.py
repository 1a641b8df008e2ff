"""Which credential a request brings for its adapter's source: `api_token` in the body.

LoRAX takes the Authorization header too. There a server's own key would come, so here the header
counts only where the operator says that it holds such tokens.
"""

import re
from dataclasses import replace
from typing import Final

from aiohttp import web

from lorax_serve.server.keys import SERVICE
from lorax_serve.server.request import GenerationRequest

_BEARER: Final = re.compile(r"bearer +([\x21-\x7e]{1,4096})", re.IGNORECASE)


def with_adapter_token(asked: GenerationRequest, request: web.Request) -> GenerationRequest:
    """`asked` with the header's token, where that counts and the body has none."""
    if asked.adapter_token is not None or not request.app[SERVICE].bearer_is_adapter_token:
        return asked
    found = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    return asked if found is None else replace(asked, adapter_token=found[1])
