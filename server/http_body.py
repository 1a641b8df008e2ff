"""Reading a JSON body: what may be sent, how much, how fast."""

import asyncio

from aiohttp import web

from lorax_serve.server.error_replies import EncodedBody
from lorax_serve.server.service import Limits


async def read_json(request: web.Request, limits: Limits) -> bytes:
    """The body's bytes.

    Raises web.HTTPException: 415 for another type or any encoding, 413 when too large, 408 when it
    does not arrive in time.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise EncodedBody
    if request.content_type != "application/json" and not request.content_type.endswith("+json"):
        raise web.HTTPUnsupportedMediaType
    if (request.content_length or 0) > limits.max_body_bytes:
        raise web.HTTPRequestEntityTooLarge(limits.max_body_bytes, request.content_length or 0)
    try:
        async with asyncio.timeout(limits.body_timeout):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
