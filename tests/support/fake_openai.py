"""A server with OpenAI's endpoints that answers by script: what a load generator meets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

NUM_PROMPT_TOKENS = 7


class FakeOpenAI:
    """Answers `max_tokens` tokens, one event each; a model's name may ask for a failure instead:

    "http_500", "stream_error", "malformed", "truncated", "connection" (closed without an answer),
    "timeout" (never answers), "no_usage" (none is sent).
    """

    def __init__(
        self, *, answer_seconds: float = 0.0, standstill: tuple[int, float] | None = None
    ) -> None:
        """`standstill`: the request, from 1, that blocks the event loop, and for how long."""
        self.bodies: list[dict[str, Any]] = []  # in the order of arrival
        self.most_at_once = 0
        self._at_once = 0
        self._answer_seconds = answer_seconds
        self._standstill = standstill

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Its URL."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._generate)
        app.router.add_post("/v1/chat/completions", self._generate)
        async with TestServer(app) as server:
            yield str(server.make_url("")).rstrip("/")

    async def _models(self, _: web.Request) -> web.Response:
        models = [{"id": "base", "owned_by": "fake"}]
        return web.json_response({"data": models}, headers={"Server": "fake/1"})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if self._standstill is not None and len(self.bodies) == self._standstill[0]:
            time.sleep(self._standstill[1])
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self._answer_seconds)
            return await self._answer(request, body)
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        model = body["model"]
        if model == "http_500":
            return web.Response(status=500, text="out of order")
        if model == "timeout":
            await asyncio.sleep(60)
        if model == "connection":
            assert request.transport is not None
            request.transport.abort()
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for event in _events(body, is_chat=request.path.endswith("chat/completions")):
            await reply.write(event)
            await asyncio.sleep(0)
        return reply


def _events(body: dict[str, Any], *, is_chat: bool) -> list[bytes]:
    model = body["model"]
    events = [_data(_chunk("a", is_chat)) for _ in range(body["max_tokens"])]
    if model == "stream_error":
        return [*events[:1], _data({"error": {"message": "adapter is gone"}})]
    if model == "malformed":
        return [*events[:1], b"data: {not json\n\n"]
    if model == "truncated":
        return events
    usage = {"prompt_tokens": NUM_PROMPT_TOKENS, "completion_tokens": body["max_tokens"]}
    last = [] if model == "no_usage" else [_data({"choices": [], "usage": usage})]
    role = [_data({"choices": [{"delta": {"role": "assistant", "content": ""}}]})] * is_chat
    return [b": keep-alive\n\n", *role, *events, *last, b"data: [DONE]\n\n"]


def _chunk(text: str, is_chat: bool) -> dict[str, Any]:
    choice = {"delta": {"content": text}} if is_chat else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": None, **choice}], "usage": None}


def _data(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()
