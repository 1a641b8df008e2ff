"""GET /v1/models: the base model and the adapters that can be named."""

import msgspec
from aiohttp import web

from lorax_serve.server.adapter_aliases import Target
from lorax_serve.server.adapter_resolver import LOCAL
from lorax_serve.server.adapter_token import header_token
from lorax_serve.server.errors import adapter_not_found
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.schema.openai_replies import Model, ModelList
from lorax_serve.server.service import Service
from lorax_serve.server.turns import in_turns


async def list_models(request: web.Request) -> web.Response:
    """Those this caller may use: folders of this machine that look usable, and of the others what
    is public or was proven with the caller's own token a moment ago.
    """
    service = request.app[SERVICE]
    names = await service.resolver.folders.servable()
    local = {name: _local_root(name) for name in names}
    listed = {n: root async for n, root in service.resolver.listed(header_token(request))}
    roots = {**listed, **local} if service.resolver.default_source == LOCAL else {**local, **listed}
    roots |= {name: listed[name] for name, _ in service.resolver.aliases if name in listed}
    adapters = [_adapter(service, name, root) async for name, root in in_turns(roots.items())]
    return _reply(ModelList(data=(_base(service), *adapters)))


async def retrieve_model(request: web.Request) -> web.Response:
    """The id is the rest of the path: it may hold slashes. Raises ServeError if unknown."""
    service = request.app[SERVICE]
    name, token = request.match_info["model_id"], header_token(request)
    if service.is_base(name):
        return _reply(_base(service))
    # As a request would mean it; then as one would that names its source.
    resolver = service.resolver
    targets = (resolver.target(name, None), *(Target(source, name) for source in resolver.sources))
    for target in targets:
        root = await resolver.root(target, token)
        if root is not None:
            return _reply(_adapter(service, name, root))
    raise adapter_not_found(name)


def _base(service: Service) -> Model:
    return _model(service, service.model_id, root=service.model_id, parent=None)


def _adapter(service: Service, name: str, root: str) -> Model:
    return _model(service, name, root=root, parent=service.model_id)


def _local_root(name: str) -> str:
    return str(Target(LOCAL, name))


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
