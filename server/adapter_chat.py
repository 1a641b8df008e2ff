"""Whose chat template a conversation is rendered with: the adapter's own, or the model's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from lorax_serve.server.asked_adapter import resolved_adapter
from lorax_serve.server.chat_prompts import Chat
from lorax_serve.server.keys import CHAT_PROMPTS, SERVICE
from lorax_serve.server.places import Place
from lorax_serve.server.request import AdapterRequest
from lorax_serve.server.text.adapter_template_files import adapter_template_sources


@asynccontextmanager
async def chat_of(request: web.Request, asked: AdapterRequest, place: Place) -> AsyncIterator[Chat]:
    """The template is read only once the caller's right to the adapter is proven. What the proof
    was is remembered, so that the generation which follows asks the source nothing.

    May take as long as a download, and leaves `place` meanwhile. Raises ServeError.
    """
    service, prompts = request.app[SERVICE], request.app[CHAT_PROMPTS]
    named = asked.adapter_id
    if not (prompts.reads_adapters and named) or service.is_base(named):
        yield prompts.base
        return
    with await resolved_adapter(service, named, asked, place) as adapter:
        folder = Path(adapter.ref.path)
        sources = await service.resolver.folders.read(lambda: adapter_template_sources(folder))
    async with prompts.of_adapter(sources) as chat:
        yield chat
