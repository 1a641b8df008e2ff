"""Requests for embeddings that must succeed, and the numbers in what they bring."""

import struct
from typing import Any

from wire import Wire

HIDDEN_SIZE = 4


def floats(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{HIDDEN_SIZE}f", vector))


async def post(wire: Wire, body: object, path: str = "/v1/embeddings") -> Any:
    reply = await wire.client.post(path, json=body)
    assert reply.status == 200, await reply.text()
    assert reply.content_type == "application/json"
    return await reply.json()
