"""GET /metrics, in Prometheus's text format."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lorax_serve.server.keys import SERVICE


async def metrics(request: web.Request) -> web.Response:
    """Never fails for the engine's sake: what that says is then what it said last.

    Raises ServeError (NOT_READY) when another frontend of this server does not answer.
    """
    service = request.app[SERVICE]
    if service.peers is None:
        await service.desk.statuses.update_metrics()
        body = generate_latest(service.metrics)
    else:
        body = await service.peers.metrics(service.desk, service.metrics)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
