"""LoRAX's generate routes. `POST /` is what its client calls: a list of one, or a stream.

Predibase, whose servers LoRAX was made for, has the same under the address of a deployment.
"""

from aiohttp import web
from msgspec.structs import replace

from lorax_serve.server.http_body import read_json
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.routes.exchange import generate as exchange
from lorax_serve.server.routes.native_view import NativeView
from lorax_serve.server.schema.common import invalid
from lorax_serve.server.schema.native import Parameters, generation_request, parse_body
from lorax_serve.server.service import Service

DEPLOYMENT = "/{tenant}/deployments/v2/llms/{model:.+}"


async def root(request: web.Request) -> web.StreamResponse:
    return await _respond(request, streams=None, as_list=True)


async def generate(request: web.Request) -> web.StreamResponse:
    return await _respond(request, streams=False, as_list=False)


async def generate_stream(request: web.Request) -> web.StreamResponse:
    return await _respond(request, streams=True, as_list=False)


async def _respond(
    request: web.Request, *, streams: bool | None, as_list: bool
) -> web.StreamResponse:
    """`streams` None: as the body says; the other routes do not read its `stream`."""
    service = request.app[SERVICE]
    body, parameters, ignored = parse_body(await read_json(request, service.limits))
    if "model" in request.match_info:
        parameters = _of_deployment(service, request.match_info["model"], parameters)
    streams = body.stream if streams is None else streams
    return await exchange(
        request,
        generation_request(body.inputs, parameters, streams=streams),
        lambda accepted: NativeView(
            service.tokenizer, accepted, parameters, body.inputs, as_list=as_list
        ),
        streams=streams,
        ignored=ignored,
    )


def _of_deployment(service: Service, model: str, asked: Parameters) -> Parameters:
    """A deployment is called like the served model or, as in OpenAI's `model`, like an adapter.

    Raises ServeError where parameters name an adapter of what is not served.
    """
    if service.is_base(model):
        return asked
    given = {"adapter_id": asked.adapter_id, "merged_adapters": asked.merged_adapters}
    for name, value in given.items():
        if value:
            problem = "cannot be given where the address names another model than the served one"
            raise invalid(f"parameters.{name}", problem)
    return replace(asked, adapter_id=model)
