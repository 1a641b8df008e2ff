"""LoRAX's generate routes. `POST /` is what its client calls: a list of one, or a stream."""

from aiohttp import web

from lorax_serve.server.http_body import read_json
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.routes.exchange import generate as exchange
from lorax_serve.server.routes.native_view import NativeView
from lorax_serve.server.schema.native import generation_request, parse_body


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
