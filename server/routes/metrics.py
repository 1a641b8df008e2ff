"""GET /metrics, in Prometheus's text format."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lorax_serve.server.keys import SERVICE


async def metrics(request: web.Request) -> web.Response:
    """Never fails for the engine's sake: what that says is then what it said last."""
    service = request.app[SERVICE]
    await service.desk.statuses.update_metrics()
    return web.Response(
        body=generate_latest(service.metrics), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )
