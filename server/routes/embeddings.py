"""POST /v1/embeddings, which is OpenAI's, and POST /embed, which is LoRAX's."""

import asyncio
import struct
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from lorax_serve.ipc.messages import PromptPooled
from lorax_serve.server.adapter_token import with_adapter_token
from lorax_serve.server.asked_adapter import note_failure
from lorax_serve.server.embedding import AcceptedEmbeddings, pooled_prompts
from lorax_serve.server.errors import ServeError
from lorax_serve.server.http_body import read_json
from lorax_serve.server.keys import ADMISSION, SERVICE
from lorax_serve.server.reply_headers import embedding_headers
from lorax_serve.server.request import EmbeddingRequest
from lorax_serve.server.request_log import FACTS
from lorax_serve.server.schema.embeddings import (
    EMBEDDINGS,
    Embedded,
    Embedding,
    EmbeddingList,
    EmbeddingUsage,
    embeddings_request,
    parse_embed,
)


async def embeddings(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    body, ignored = EMBEDDINGS.parse(await read_json(request, service.limits))
    asked = embeddings_request(body, service.engine.info.hidden_size)
    answer = await pooled_answer(request, asked, ignored)
    num_tokens = answer.accepted.num_prompt_tokens
    adapter = answer.accepted.adapter.ref
    empty = EmbeddingList(
        data=(),
        model=adapter.name if adapter else service.model_id,
        usage=EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )
    return web.Response(
        body=_filled(empty, answer.vectors, as_base64=body.encoding_format == "base64"),
        content_type="application/json",
        headers=answer.headers,
    )


async def embed(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    asked, ignored = parse_embed(await read_json(request, service.limits))
    answer = await pooled_answer(request, asked, ignored)
    (vector,) = answer.vectors
    return web.Response(
        body=msgspec.json.encode(Embedded(_floats(vector.vector))),
        content_type="application/json",
        headers=answer.headers,
    )


@dataclass(frozen=True, slots=True)
class PooledAnswer:
    accepted: AcceptedEmbeddings
    vectors: tuple[PromptPooled, ...]
    headers: dict[str, str]


async def pooled_answer(
    request: web.Request, asked: EmbeddingRequest, ignored: Iterable[str]
) -> PooledAnswer:
    """Raises ServeError. Cancelled, it aborts what the engine has of it."""
    service, admission = request.app[SERVICE], request.app[ADMISSION]
    async with admission.accept_embeddings(with_adapter_token(asked, request)) as accepted:
        accepted_at = time.monotonic()
        if (facts := request.get(FACTS)) is not None:
            facts.accepted(accepted.adapter.records, accepted.num_prompt_tokens)
        try:
            vectors = await pooled_prompts(service.engine, accepted)
        except ServeError as error:
            adapter = accepted.adapter
            note_failure(service, adapter.adapters, adapter.records, error.code)
            raise
        headers = embedding_headers(request, accepted, accepted_at, vectors, ignored)
        return PooledAnswer(accepted, vectors, headers)


async def _filled(
    empty: EmbeddingList, vectors: Sequence[PromptPooled], *, as_base64: bool
) -> AsyncIterator[bytes]:
    """The JSON of the list with every vector in it, in pieces: a whole one may have 200 MB, and
    would take as long as it takes to write it for everybody else too.
    """
    head, tail = msgspec.json.encode(empty).split(b"[]", 1)
    yield head + b"["
    for index, each in enumerate(vectors):
        shown = b64encode(each.vector).decode() if as_base64 else _floats(each.vector)
        item = msgspec.json.encode(Embedding(index=index, embedding=shown))
        yield b"," + item if index else item
        await asyncio.sleep(0)  # a client that reads fast would never let go of the loop
    yield b"]" + tail


def _floats(vector: bytes) -> tuple[float, ...]:
    """Each as a JSON number that reads as exactly the float32."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)
