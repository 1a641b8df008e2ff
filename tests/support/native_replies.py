"""Replies of LoRAX's routes, as JSON or event by event."""

import json
from typing import Any

from aiohttp import ClientResponse

from wire import Wire


async def ask(wire: Wire, path: str = "/generate", **parameters: object) -> Any:
    """The JSON of one reply."""
    reply = await wire.client.post(path, json={"inputs": "hi", "parameters": parameters})
    assert reply.status == 200, await reply.text()
    return await reply.json()


async def events(reply: ClientResponse) -> list[Any]:
    """Each event of a stream, which must be one `data:` line and an empty one."""
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    *blocks, rest = (await reply.text()).split("\n\n")
    assert rest == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


async def stream(wire: Wire, **parameters: object) -> list[Any]:
    body = {"inputs": "hi", "parameters": parameters}
    return await events(await wire.client.post("/generate_stream", json=body))
