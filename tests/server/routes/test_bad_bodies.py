"""Bodies that are not JSON, of another type or too large, and addresses where nothing is."""

import gzip
from typing import Any

import pytest

from refusals import EVERY, JSON, openai_body, post, refused, serves_on
from wire import Wire

DEEP = b"[" * 100_000 + b"]" * 100_000


MALFORMED = [
    b"",
    b"{",
    b"nonsense",
    b'{"inputs": "x"} trailing',
    b'{"inputs": "x", "parameters": {"temperature": NaN}}',
    b'{"inputs": "x", "parameters": {"temperature": Infinity}}',
    b'{"model": "", "prompt": "x", "temperature": -Infinity}',
    b'{"inputs": "\xff"}',
    b'{"inputs": "\\ud800"}',
    b'{"inputs": ' + DEEP + b"}",
    b'{"unknown": ' + DEEP + b"}",
    b'{"inputs": "x", "parameters": ' + DEEP + b"}",
    DEEP,
]


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("raw", MALFORMED, ids=lambda raw: raw[:40])
async def test_malformed_json(wire: Wire, path: str, raw: bytes) -> None:
    reply = await wire.client.post(path, data=raw, headers=JSON)
    is_list = raw == DEEP  # in the words of the native API, well formed but no object
    await refused(reply, 422 if is_list and not path.startswith("/v1/") else 400)
    await serves_on(wire)


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("raw", [b"[]", b"7", b'"text"', b"null"])
async def test_not_an_object(wire: Wire, path: str, raw: bytes) -> None:
    reply = await wire.client.post(path, data=raw, headers=JSON)
    await refused(reply, 400 if path.startswith("/v1/") else 422)
    await serves_on(wire)


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "deflate, gzip"},
    ],
    ids=str,
)
async def test_other_types_and_encodings(wire: Wire, path: str, headers: dict[str, str]) -> None:
    raw = gzip.compress(b"{}") if "Content-Encoding" in headers else b"{}"
    reply = await wire.client.post(
        path, data=raw, headers=headers, skip_auto_headers=["Content-Type"]
    )
    sentence, _ = await refused(reply, 415)
    assert ("Content-Encoding" in sentence) == ("Content-Encoding" in headers)
    assert ("Content-Type" in sentence) == ("Content-Encoding" not in headers)
    await serves_on(wire)


async def test_a_gzip_bomb_is_refused(wire: Wire) -> None:
    bomb = gzip.compress(b" " * 64 * 2**20, compresslevel=1)
    headers = {**JSON, "Content-Encoding": "gzip"}
    await refused(await wire.client.post("/generate", data=bomb, headers=headers), 415)


@pytest.mark.parametrize("path", EVERY)
async def test_a_body_over_the_limit(wire: Wire, path: str) -> None:
    raw = b'{"inputs": "' + b"x" * 8 * 2**20 + b'"}'
    await refused(await post(wire, path, raw), 413)


@pytest.mark.parametrize("path", EVERY)
async def test_a_prompt_of_eight_megabytes(wire: Wire, path: str) -> None:
    text = "x" * (8 * 2**20 - 200)
    fields: dict[str, object] = {"inputs": text}
    if path == "/v1/completions":
        fields = {"model": "", "prompt": text}
    elif path == "/v1/chat/completions":
        fields = {"model": "", "messages": [{"role": "user", "content": text}]}
    elif path == "/v1/embeddings":
        fields = {"model": "", "input": text}
    reply = await post(wire, path, fields)
    await refused(reply, 400 if path.startswith("/v1/") else 422)
    await serves_on(wire)


BULK: list[dict[str, Any]] = [
    {f"field{i}": i for i in range(70)},
    {f"field{i}": i for i in range(50_000)},
    {"metadatum": "x" * 4_000_000},
    {"stop": ["x"] * 500_000},
    {"logit_bias": {str(i): 1 for i in range(50_000)}},
]


@pytest.mark.parametrize("bulk", BULK, ids=["fields", "many fields", "one field", "stop", "bias"])
async def test_bulk_outside_the_prompt(wire: Wire, bulk: dict[str, Any]) -> None:
    await refused(await post(wire, "/generate", {"inputs": "hi", **bulk}), 422)
    await refused(await post(wire, "/generate", {"inputs": "hi", "parameters": bulk}), 422)
    await refused(await post(wire, "/v1/completions", openai_body("", **bulk)), 400)
    await serves_on(wire)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/embeddings", 405, "method_not_allowed"),
        ("GET", "/embed", 405, "method_not_allowed"),
        ("GET", "/generate", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("PUT", "/", 405, "method_not_allowed"),
    ],
)
async def test_addresses(wire: Wire, method: str, path: str, status: int, kind: str) -> None:
    reply = await wire.client.request(method, path)
    assert (await refused(reply, status))[1] == kind
    assert ("Allow" in reply.headers) == (status == 405)
