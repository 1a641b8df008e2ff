"""A JSON body as a response."""

import io
from collections.abc import Mapping
from typing import Final

from aiohttp import web

_WHOLE_BYTES: Final = 2**20


def json_reply(body: bytes, headers: Mapping[str, str]) -> web.Response:
    """A long body is written bit by bit: whole, the transport would copy what the client has not
    read yet, and the event loop wait for that.
    """
    written = body if len(body) <= _WHOLE_BYTES else io.BytesIO(body)
    return web.Response(body=written, content_type="application/json", headers=headers)
