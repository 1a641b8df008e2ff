"""The operator's routes: vLLM's load and unload, pins, refresh, status. See docs/operations.md."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import structlog
from aiohttp import web

from lorax_serve.server.adapter_operations import AdapterOperations
from lorax_serve.server.adapter_records import SHORT_REVISION
from lorax_serve.server.adapter_token import adapter_token
from lorax_serve.server.errors import ServeError
from lorax_serve.server.http_body import read_json
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.schema.admin import (
    AdapterBody,
    LoadBody,
    Pinned,
    Refreshed,
    UnloadBody,
    Unpinned,
)
from lorax_serve.server.schema.common import decode

# Names that an operator gives are shown; others may be of somebody's private adapters.
log = structlog.get_logger(__name__)


async def load(request: web.Request) -> web.Response:
    body = decode(await read_json(request, request.app[SERVICE].limits), LoadBody)
    token = adapter_token(request, body.api_token)
    with _naming(adapter="lora_path", source="lora_path" if body.source is None else "source"):
        await _operations(request).load(
            body.lora_name,
            body.lora_path,
            source=body.source,
            token=token,
            pin=bool(body.pin),
            replaces=bool(body.load_inplace),
        )
    log.info("adapter_named", name=body.lora_name, pinned=body.pin)
    return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' added successfully.")


async def unload(request: web.Request) -> web.Response:
    body = decode(await read_json(request, request.app[SERVICE].limits), UnloadBody)
    await _operations(request).unload(body.lora_name)
    log.info("adapter_unnamed", name=body.lora_name)
    return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


async def pin(request: web.Request) -> web.Response:
    name, body = await _asked(request)
    token = adapter_token(request, body.api_token)
    with _naming():
        pinned = await _operations(request).pin(name, body.source, token)
    revision = pinned.adapter.revision[:SHORT_REVISION]
    log.info("adapter_pinned", source=pinned.source, revision=revision)
    return _reply(Pinned(name=name, source=pinned.source, revision=revision))


async def unpin(request: web.Request) -> web.Response:
    name, body = await _asked(request)
    with _naming():
        source, was_pinned = await _operations(request).unpin(name, body.source)
    log.info("adapter_unpinned", source=source, was_pinned=was_pinned)
    return _reply(Unpinned(name=name, source=source, was_pinned=was_pinned))


async def refresh(request: web.Request) -> web.Response:
    name, body = await _asked(request)
    token = adapter_token(request, body.api_token)
    with _naming():
        now = await _operations(request).refresh(name, body.source, token)
    revision = now.adapter.revision[:SHORT_REVISION]
    log.info("adapter_refreshed", source=now.source, revision=revision)
    return _reply(
        Refreshed(name=name, source=now.source, revision=revision, changed=now.has_changed)
    )


async def status(request: web.Request) -> web.Response:
    return _reply(await request.app[SERVICE].desk.statuses.all())


@contextmanager
def _naming(*, adapter: str = "name", source: str = "source") -> Iterator[None]:
    """Errors about an adapter or its source say which field of these routes is to blame, where they
    would say which one of a request for a generation.
    """
    here = {"model": adapter, "adapter_id": adapter, "adapter_source": source}
    try:
        yield
    except ServeError as error:
        error.param = here.get(error.param or "", error.param)
        raise


def _operations(request: web.Request) -> AdapterOperations:
    return request.app[SERVICE].desk.operations


async def _asked(request: web.Request) -> tuple[str, AdapterBody]:
    """The adapter in the address; a body says more about it where there is one."""
    name = request.match_info["name"]
    if not request.can_read_body:
        return name, AdapterBody()
    return name, decode(await read_json(request, request.app[SERVICE].limits), AdapterBody)


def _reply(body: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
