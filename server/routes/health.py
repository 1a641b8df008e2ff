"""Probes, GET /info and GET /version."""

from contextlib import aclosing
from dataclasses import replace
from http import HTTPStatus

import msgspec
from aiohttp import web

from lorax_serve.ipc.types import ErrorCode, SamplingParams
from lorax_serve.server.error_replies import error_reply, failure_of
from lorax_serve.server.errors import ServeError
from lorax_serve.server.keys import ADMISSION, SERVICE
from lorax_serve.server.request import GenerationRequest
from lorax_serve.server.schema.native import MAX_BEST_OF

ONE_TOKEN = GenerationRequest(
    prompt="Are you there?", sampling=SamplingParams(temperature=0.0), max_new_tokens=1
)


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """LoRAX's fields. Its scheduler knobs have no counterpart here and say what holds instead."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_device_type: str
    model_pipeline_tag: str = "text-generation"
    max_concurrent_requests: int
    max_best_of: int = MAX_BEST_OF
    max_stop_sequences: int
    max_input_length: int  # tokens, leaving one to generate
    max_total_tokens: int  # prompt plus output of one request
    waiting_served_ratio: float = 0.0  # prompts never wait for a ratio
    max_batch_total_tokens: int  # that the KV cache holds
    max_waiting_tokens: int = 0
    validation_workers: int = 1
    eager_prefill: bool = True
    version: str
    sha: str | None = None  # of the code, where the build knows it
    docker_label: str | None = None
    request_logger_url: str | None = None  # requests are not logged anywhere


class Version(msgspec.Struct, frozen=True):
    version: str


async def health(request: web.Request) -> web.Response:
    """The frontend lives. Never asks the engine: whoever restarts on it must not cut a load off."""
    return web.Response()


async def ready(request: web.Request) -> web.Response:
    """Raises ServeError (NOT_READY) while requests would be refused. SageMaker's `/ping` too: it
    sends traffic to whom it finds alive.
    """
    if not request.app[SERVICE].engine.is_ready:
        raise ServeError(ErrorCode.NOT_READY, "The engine is not ready.")
    return web.Response()


async def startup(request: web.Request) -> web.StreamResponse:
    """Generates a token with the base model, as LoRAX does: what fails there is a 500.

    Raises ServeError (NOT_READY) until the engine is ready.
    """
    try:
        await _generate_one_token(request)
    except ServeError as error:
        if error.code is ErrorCode.NOT_READY:
            raise
        failure = replace(failure_of(error), native_status=HTTPStatus.INTERNAL_SERVER_ERROR)
        return error_reply(request, failure)
    return web.Response()


async def version(request: web.Request) -> web.Response:
    reply = Version(request.app[SERVICE].version)
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


async def info(request: web.Request) -> web.Response:
    """Raises ServeError (NOT_READY) until the engine has told what it serves."""
    service = request.app[SERVICE]
    engine, limits = service.engine.info, service.limits
    reply = Info(
        model_id=service.model_id,
        model_sha=service.model_revision,
        model_dtype=engine.dtype,
        model_device_type=engine.device,
        max_concurrent_requests=limits.all_concurrent_requests or limits.max_concurrent_requests,
        max_stop_sequences=limits.max_stop_sequences,
        max_input_length=engine.max_model_len - 1,
        max_total_tokens=engine.max_model_len,
        max_batch_total_tokens=engine.num_blocks * engine.block_size,
        version=service.version,
    )
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


async def _generate_one_token(request: web.Request) -> None:
    """Raises ServeError."""
    engine = request.app[SERVICE].engine
    async with (
        request.app[ADMISSION].accept(ONE_TOKEN) as accepted,
        aclosing(engine.generate(accepted.message)) as events,
    ):
        async for event in events:
            if event.finish_reason is not None:
                return
    raise ServeError(ErrorCode.GENERATION_ERROR, "The engine ended the request without a token.")
