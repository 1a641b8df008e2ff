"""Bodies for every route, and what every refusal must look like."""

import io
import json

from aiohttp import ClientResponse

from wire import MODEL_ID, Wire

JSON = {"Content-Type": "application/json"}
DEPLOYED = f"/acme/deployments/v2/llms/{MODEL_ID}/generate"
NATIVE = ("/", "/generate", "/generate_stream", "/invocations", DEPLOYED)
OPENAI = ("/v1/chat/completions", "/v1/completions")
EVERY = (*NATIVE, *OPENAI, "/embed", "/v1/embeddings")


def openai_body(path: str, **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "hi"}]
    prompt = {"messages": messages} if "chat" in path else {"prompt": "hi"}
    return {"model": "", **prompt, **fields}


async def post(wire: Wire, path: str, body: object) -> ClientResponse:
    """Any body, of any size: aiohttp's client warns about large ones that are no file."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await wire.client.post(path, data=io.BytesIO(raw), headers=JSON)


async def refused(reply: ClientResponse, status: int) -> tuple[str, str]:
    """The error's sentence and its kind, having checked the body's shape and size."""
    raw = await reply.read()
    assert reply.status == status, raw
    assert reply.content_type == "application/json"
    assert len(raw) <= 1024
    body = json.loads(raw)
    if reply.url.path.startswith("/v1/"):
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}
        return body["error"]["message"], body["error"]["code"]
    assert body.keys() == {"error", "error_type"}
    return body["error"], body["error_type"]


async def serves_on(wire: Wire) -> None:
    """After what it refused: nothing reached the engine or the log, and the next request works."""
    assert wire.engine.requests == wire.engine.pooled == []
    assert wire.logs == []
    wire.will_say("ok")
    reply = await wire.client.post("/generate", json={"inputs": "hi"})
    assert await reply.json() == {"generated_text": "ok"}
