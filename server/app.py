"""The HTTP application: routes, and the one place where whatever goes wrong becomes a reply."""

import re
import time
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web

from lorax_serve.server.admin_key import AdminKey
from lorax_serve.server.admission import Admission
from lorax_serve.server.chat_prompts import ChatPrompts
from lorax_serve.server.error_replies import (
    INTERNAL,
    error_reply,
    failure_of,
    failure_of_http,
)
from lorax_serve.server.errors import ServeError
from lorax_serve.server.keys import (
    ADMISSION,
    CHAT_PROMPTS,
    RECEIVED_AT,
    REQUEST_ID,
    SERVICE,
    TEXT_PLACES,
)
from lorax_serve.server.places import Places
from lorax_serve.server.routes import (
    admin,
    chat,
    classify,
    completions,
    embeddings,
    health,
    metrics,
    models,
    native,
    tokenize,
)
from lorax_serve.server.service import Service

log = structlog.get_logger(__name__)

GIVEN_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(service: Service) -> web.Application:
    """Run it with `handler_cancellation=True`: a client that leaves then aborts its generation."""
    app = web.Application(
        middlewares=[answer_errors], client_max_size=service.limits.max_body_bytes
    )
    app[SERVICE] = service
    app[ADMISSION] = Admission(service)
    app[CHAT_PROMPTS] = ChatPrompts(
        service.chat_template,
        service.chat_template_kwargs,
        service.tool_call_parser,
        service.adapter_templates,
    )
    app[TEXT_PLACES] = Places(service.limits.max_concurrent_requests)
    app.on_response_prepare.append(_show_request_id)
    app.on_shutdown.append(_stop_waiting)
    app.on_cleanup.append(_close_sources)
    app.on_cleanup.append(_end_rendering)
    app.add_routes(
        [
            web.post("/", native.root),
            web.post("/generate", native.generate),
            web.post("/generate_stream", native.generate_stream),
            web.post("/invocations", native.root),
            web.post("/embed", embeddings.embed),
            web.post("/classify", classify.classify),
            web.post("/classify_batch", classify.classify),
            web.post("/tokenize", tokenize.tokenize),
            web.post("/detokenize", tokenize.detokenize),
            web.post("/v1/chat/completions", chat.chat_completions),
            web.post("/v1/completions", completions.completions),
            web.post("/v1/embeddings", embeddings.embeddings),
            web.get("/v1/models", models.list_models),
            web.get("/v1/models/{model_id:.+}", models.retrieve_model),
            web.get("/", health.health),
            web.get("/health", health.health),
            web.get("/ping", health.ready),
            web.post("/ping", health.ready),
            web.get("/ready", health.ready),
            web.get("/startup", health.startup),
            web.get("/info", health.info),
            web.get("/version", health.version),
            web.get("/metrics", metrics.metrics),
        ]
    )
    if service.admin_key is not None:
        app.add_routes(_admin_routes(service.admin_key))
    return app


def _admin_routes(key: AdminKey) -> list[web.RouteDef]:
    """Only there where a key was set: without one, nothing at these addresses tells of them."""
    return [
        web.post("/v1/load_lora_adapter", key.guard(admin.load)),
        web.post("/v1/unload_lora_adapter", key.guard(admin.unload)),
        web.get("/adapters", key.guard(admin.status)),
        web.post("/adapters/{name:.+}/pin", key.guard(admin.pin)),
        web.post("/adapters/{name:.+}/unpin", key.guard(admin.unpin)),
        web.post("/adapters/{name:.+}/refresh", key.guard(admin.refresh)),
    ]


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: every error leaves as JSON from the catalogue; details stay in the log."""
    given = request.headers.get("x-request-id", "")
    request[REQUEST_ID] = given if GIVEN_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    request[RECEIVED_AT] = time.monotonic()
    try:
        return await handler(request)
    except ServeError as error:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("request_failed", request_id=request[REQUEST_ID], code=error.code.value)
        return error_reply(request, failure_of(error))
    except web.HTTPException as error:
        reply = error_reply(request, failure_of_http(error))
        if "Allow" in error.headers:
            reply.headers["Allow"] = error.headers["Allow"]
        return reply
    except web.RequestPayloadError:
        return error_reply(request, failure_of_http(web.HTTPBadRequest()))
    except Exception as error:
        if isinstance(error, ConnectionError) and _client_left(request):
            return error_reply(request, failure_of_http(web.HTTPBadRequest()))  # to nobody
        log.exception("request_crashed", request_id=request[REQUEST_ID])
        return error_reply(request, INTERNAL)


def _client_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _stop_waiting(app: web.Application) -> None:
    app[SERVICE].resolver.stop()


async def _close_sources(app: web.Application) -> None:
    await app[SERVICE].resolver.close()


async def _end_rendering(app: web.Application) -> None:
    await app[CHAT_PROMPTS].close()


async def _show_request_id(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-request-id"] = request[REQUEST_ID]
