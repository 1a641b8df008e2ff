"""POST /classify and /classify_batch: LoRAX's addresses, answered by the heads of adapters."""

from aiohttp import web

from lorax_serve.ipc.messages import PromptPooled
from lorax_serve.ipc.types import HeadKind
from lorax_serve.server.http_body import read_json
from lorax_serve.server.keys import SERVICE
from lorax_serve.server.labels import labels
from lorax_serve.server.long_lists import json_list
from lorax_serve.server.request import EmbeddingRequest
from lorax_serve.server.routes.embeddings import pooled_answer
from lorax_serve.server.schema.classify import parse_classify, parse_classify_batch
from lorax_serve.server.service import Service
from lorax_serve.server.threads import run_sized


async def classify(request: web.Request) -> web.Response:
    asked, ignored = parse_classify(await read_json(request, request.app[SERVICE].limits))
    lists, headers = await _answered(request, asked, ignored)
    return web.Response(body=lists[0], content_type="application/json", headers=headers)


async def classify_batch(request: web.Request) -> web.Response:
    """In the order of the texts."""
    asked, ignored = parse_classify_batch(await read_json(request, request.app[SERVICE].limits))
    lists, headers = await _answered(request, asked, ignored)
    body = b"[" + b",".join(lists) + b"]"
    return web.Response(body=body, content_type="application/json", headers=headers)


async def _answered(
    request: web.Request, asked: EmbeddingRequest, ignored: tuple[str, ...]
) -> tuple[list[bytes], dict[str, str]]:
    """The JSON of each text's list. Raises ServeError."""
    service = request.app[SERVICE]
    answer = await pooled_answer(request, asked, ignored)
    lists = []
    for text, said in zip(asked.prompts, answer.vectors, strict=True):
        assert isinstance(text, str), "texts are classified"
        lists.append(await _list(service, text, said))
    return lists, answer.headers


async def _list(service: Service, text: str, said: PromptPooled) -> bytes:
    if said.head is not HeadKind.TOKEN:
        return json_list(labels(said, text, ()))
    num_rows = len(said.vector) // (4 * said.num_labels)
    found = await service.tokenizer.pieces_bounded(
        text, add_special_tokens=True, max_tokens=num_rows
    )
    return await run_sized(num_rows, lambda: json_list(labels(said, text, found)))
