"""GET /v1/models: the base model and the adapters that can be named."""

import asyncio

import msgspec
from aiohttp import web

from lorax_serve.server.keys import SERVICE
from lorax_serve.server.schema.openai_replies import Model, ModelList
from lorax_serve.server.service import Service


async def list_models(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    names = await asyncio.to_thread(service.adapters.list)
    models = (_base(service), *(_adapter(service, name) for name in names))
    return _reply(ModelList(data=models))


async def retrieve_model(request: web.Request) -> web.Response:
    """The id is the rest of the path: it may hold slashes. Raises ServeError if unknown."""
    service = request.app[SERVICE]
    name = request.match_info["model_id"]
    if service.is_base(name):
        return _reply(_base(service))
    service.adapters.resolve(name)
    return _reply(_adapter(service, name))


def _base(service: Service) -> Model:
    return _model(service, service.model_id, root=service.model_id, parent=None)


def _adapter(service: Service, name: str) -> Model:
    return _model(service, name, root=f"local:{name}", parent=service.model_id)


def _model(service: Service, model_id: str, *, root: str, parent: str | None) -> Model:
    max_model_len = service.engine.info.max_model_len if service.engine.is_ready else msgspec.UNSET
    return Model(
        id=model_id,
        created=service.started_at,
        root=root,
        parent=parent,
        max_model_len=max_model_len,
    )


def _reply(body: Model | ModelList) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
