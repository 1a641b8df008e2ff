"""GET /openapi.json and GET /docs."""

from aiohttp import web

from lorax_serve.server.keys import DOCUMENTATION
from lorax_serve.server.openapi.page import CONTENT_SECURITY_POLICY


async def openapi(request: web.Request) -> web.Response:
    return web.Response(body=request.app[DOCUMENTATION].document, content_type="application/json")


async def docs(request: web.Request) -> web.Response:
    return web.Response(
        body=request.app[DOCUMENTATION].page,
        content_type="text/html",
        charset="utf-8",
        headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY},
    )
