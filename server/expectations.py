"""The Expect header: a body that waits to be asked for is asked for, anything else is passed over.

aiohttp refuses other expectations before any of our code has seen the request, in words of its own.
That is a server's right, not its duty: RFC 9110, 10.1.1.
"""

from contextlib import suppress
from typing import Final

from aiohttp import HttpVersion11, web

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def expecting(route: web.RouteDef) -> web.RouteDef:
    """The same route for requests with any expectation."""
    return web.RouteDef(
        route.method, route.path, route.handler, {**route.kwargs, "expect_handler": _meet}
    )


async def _meet(request: web.Request) -> None:
    asks_first = request.headers.get("Expect", "").lower() == "100-continue"
    if asks_first and request.version >= HttpVersion11:
        with suppress(ConnectionResetError):  # whoever reads the body is told that nobody is there
            await request.writer.write(_CONTINUE)
        request.writer.output_size = 0  # the reply itself has not begun
