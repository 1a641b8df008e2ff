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
from lorax_serve.server.documentation import documentation
from lorax_serve.server.error_replies import (
    INTERNAL,
    Failure,
    error_reply,
    failure_of,
    failure_of_http,
)
from lorax_serve.server.errors import ServeError
from lorax_serve.server.expectations import expecting
from lorax_serve.server.keys import (
    ADMISSION,
    CHAT_PROMPTS,
    DOCUMENTATION,
    RECEIVED_AT,
    REQUEST_ID,
    SERVICE,
    TEXT_PLACES,
)
from lorax_serve.server.places import Places
from lorax_serve.server.request_log import FACTS, log_request, note_status
from lorax_serve.server.routes.table import OPERATOR_ROUTES, PUBLIC_ROUTES
from lorax_serve.server.service import Service

log = structlog.get_logger(__name__)

GIVEN_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(service: Service) -> web.Application:
    """Run it with `handler_cancellation=True`: a client that leaves then aborts its generation."""
    app = web.Application(
        middlewares=[log_request, answer_errors] if service.logs_requests else [answer_errors],
        client_max_size=service.limits.max_body_bytes,
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
    app[DOCUMENTATION] = documentation(has_operator=service.admin_key is not None)
    app.on_response_prepare.append(_show_request_id)
    app.on_response_prepare.append(note_status)
    app.on_shutdown.append(_stop_waiting)
    app.on_cleanup.append(_close_sources)
    app.on_cleanup.append(_end_rendering)
    routes = [*PUBLIC_ROUTES]
    if service.admin_key is not None:
        routes += [_guarded(service.admin_key, route) for route in OPERATOR_ROUTES]
    app.add_routes(map(expecting, routes))
    return app


def _guarded(key: AdminKey, route: web.RouteDef) -> web.RouteDef:
    return web.RouteDef(route.method, route.path, key.guard(route.handler), route.kwargs)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: every error leaves as JSON from the catalogue; details stay in the log."""
    request[REQUEST_ID] = _request_id(request)
    request[RECEIVED_AT] = time.monotonic()
    try:
        return await handler(request)
    except ServeError as error:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("request_failed", request_id=request[REQUEST_ID], code=error.code.value)
        return _error_reply(request, failure_of(error))
    except web.HTTPException as error:
        reply = _error_reply(request, failure_of_http(error))
        if "Allow" in error.headers:
            reply.headers["Allow"] = error.headers["Allow"]
        return reply
    except web.RequestPayloadError:
        return _error_reply(request, failure_of_http(web.HTTPBadRequest()))
    except Exception as error:
        if isinstance(error, ConnectionError) and _client_left(request):
            return _error_reply(request, failure_of_http(web.HTTPBadRequest()))  # to nobody
        log.exception("request_crashed", request_id=request[REQUEST_ID])
        return _error_reply(request, INTERNAL)


def _error_reply(request: web.Request, failure: Failure) -> web.Response:
    if (facts := request.get(FACTS)) is not None:
        facts.code = failure.code
    return error_reply(request, failure)


def _request_id(request: web.Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if GIVEN_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _client_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


async def _stop_waiting(app: web.Application) -> None:
    app[SERVICE].resolver.stop()


async def _close_sources(app: web.Application) -> None:
    await app[SERVICE].resolver.close()


async def _end_rendering(app: web.Application) -> None:
    await app[CHAT_PROMPTS].close()


async def _show_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """What aiohttp itself refuses, such as an expectation at no address of ours, has none yet."""
    response.headers["x-request-id"] = request.get(REQUEST_ID) or _request_id(request)
