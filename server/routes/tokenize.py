"""POST /tokenize, in LoRAX's shape and in vLLM's, and POST /detokenize.

A text may be as long as `truncate` could rescue, which is longer than what can be generated from.
"""

from collections.abc import Iterable, Sequence

import msgspec
from aiohttp import web
from msgspec import Raw

from lorax_serve.server.adapter_chat import chat_of
from lorax_serve.server.adapter_token import header_token
from lorax_serve.server.http_body import read_json
from lorax_serve.server.json_reply import json_reply
from lorax_serve.server.keys import SERVICE, TEXT_PLACES
from lorax_serve.server.long_lists import json_list
from lorax_serve.server.reply_headers import ignored_headers
from lorax_serve.server.request import AdapterRequest
from lorax_serve.server.schema.common import invalid
from lorax_serve.server.schema.tokenize import (
    DETOKENIZE,
    Detokenized,
    LoraxTokenize,
    MessagesTokenize,
    PromptTokenize,
    Tokenized,
    parse_tokenize,
)
from lorax_serve.server.service import Service
from lorax_serve.server.threads import run_sized


async def tokenize(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    raw = await read_json(request, service.limits)
    async with request.app[TEXT_PLACES].take() as place:
        body, ignored = parse_tokenize(raw)
        if isinstance(body, LoraxTokenize):
            pieces = await service.tokenizer.pieces_bounded(
                body.inputs,
                add_special_tokens=body.add_special_tokens,
                max_tokens=_max_tokens(service),
            )
            reply = await run_sized(len(pieces), json_list, pieces)
            return json_reply(reply, ignored_headers(ignored))
        if isinstance(body, PromptTokenize):
            text = body.prompt
        else:
            asked = AdapterRequest(adapter_id=body.model, adapter_token=header_token(request))
            async with chat_of(request, asked, place) as chat:
                text = await chat.render(body.conversation(), body.asked_tools())
        return _json(await _tokenized(service, body, text), ignored)


async def detokenize(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    raw = await read_json(request, service.limits)
    async with request.app[TEXT_PLACES].take():
        body, ignored = DETOKENIZE.parse(raw)
        _check_tokens(service, body.tokens)
        return _json(Detokenized(await _text(service, body.tokens)), ignored)


async def _tokenized(
    service: Service, body: PromptTokenize | MessagesTokenize, text: str
) -> Tokenized:
    ids = await service.tokenizer.encode_bounded(
        text, add_special_tokens=body.add_special_tokens, max_tokens=_max_tokens(service)
    )
    strings = None
    if body.return_token_strs:
        strings = await run_sized(len(ids), _strings, service, ids)
    return Tokenized(len(ids), service.engine.info.max_model_len, ids, strings)


def _strings(service: Service, ids: Sequence[int]) -> Raw:
    return Raw(json_list(map(service.tokenizer.vocabulary_piece, ids)))


async def _text(service: Service, token_ids: tuple[int, ...]) -> str:
    """Special tokens included: a text that was tokenized comes back as it was."""
    return await run_sized(
        len(token_ids), service.tokenizer.decode, token_ids, skip_special_tokens=False
    )


def _check_tokens(service: Service, token_ids: tuple[int, ...]) -> None:
    vocab_size = service.engine.info.vocab_size
    if len(token_ids) > _max_tokens(service):
        raise invalid("tokens", f"has more than {_max_tokens(service)} entries")
    if token_ids and max(token_ids) >= vocab_size:
        raise invalid("tokens", f"has a token id outside the vocabulary of {vocab_size}")


def _max_tokens(service: Service) -> int:
    return max(service.engine.info.max_model_len, service.limits.max_untruncated_tokens)


def _json(reply: object, ignored: Iterable[str]) -> web.Response:
    return json_reply(msgspec.json.encode(reply), ignored_headers(ignored))
