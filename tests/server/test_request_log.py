"""One line for each request, with nothing in it that a client wrote."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from structlog.typing import EventDict

from fake_engine import Tokens
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.errors import ServeError
from wire import Wire, running


@pytest_asyncio.fixture
async def wire(wire_files: Path) -> AsyncIterator[Wire]:
    async with running(wire_files, logs_requests=True) as served:
        yield served


def line(wire: Wire) -> EventDict:
    """The latest; it was written at debug level."""
    found = [entry for entry in wire.logs if entry["event"] == "request"]
    assert found and found[-1]["log_level"] == "debug"
    assert found[-1].pop("seconds") >= 0
    return found[-1]


async def test_a_generation(wire: Wire) -> None:
    wire.will_say("abc", FinishReason.LENGTH)
    body = {"model": "alice", "prompt": [5, 6, 7, 8], "max_tokens": 3, "api_token": "hf_canary"}
    headers = {"x-request-id": "mine", "Authorization": "Bearer canary"}
    assert (await wire.client.post("/v1/completions", json=body, headers=headers)).status == 200
    assert line(wire) == {
        "event": "request",
        "log_level": "debug",
        "request_id": "mine",
        "method": "POST",
        "route": "/v1/completions",
        "status": 200,
        "code": None,
        "adapters": ["alice"],
        "num_prompt_tokens": 4,
        "num_generated_tokens": 3,
        "finish": ["length"],
    }
    await wire.client.post("/v1/completions", json=body | {"prompt": "canary"})
    assert line(wire)["status"] == 200
    assert "canary" not in str(wire.logs)


async def test_every_choice_counts(wire: Wire) -> None:
    wire.will_say("abc")
    body = {"model": "", "prompt": [[5], [6, 7]], "n": 2}
    assert (await wire.client.post("/v1/completions", json=body)).status == 200
    said = line(wire)
    assert (said["num_prompt_tokens"], said["num_generated_tokens"]) == (3, 4 * 4)
    assert (said["adapters"], said["finish"]) == ([], ["eos"] * 4)


async def test_a_stream_that_ends_in_an_error(wire: Wire) -> None:
    wire.engine.script = [Tokens([5]), ServeError(ErrorCode.GENERATION_ERROR, "No.")]
    reply = await wire.client.post("/generate_stream", json={"inputs": "x"})
    with pytest.raises(aiohttp.ClientPayloadError):  # it is torn behind the error
        await reply.read()
    said = line(wire)
    assert (said["status"], said["code"]) == (200, "generation_error")
    assert (said["num_generated_tokens"], said["finish"]) == (1, [])


async def test_what_is_refused(wire: Wire) -> None:
    for path, body, expected in [
        ("/v1/completions", {"model": "canary", "prompt": "x"}, ("model_not_found", 404)),
        ("/v1/completions", {"prompt": ""}, ("invalid_request", 400)),
        ("/canary", {}, ("not_found", 404)),
    ]:
        await wire.client.post(path, json=body)
        said = line(wire)
        assert (said["code"], said["status"], said["adapters"]) == (*expected, None)
    assert said["route"] is None
    assert "canary" not in str(wire.logs)


async def test_a_client_that_leaves(wire: Wire) -> None:
    wire.engine.script = [asyncio.Event()]
    asking = asyncio.create_task(wire.client.post("/generate", json={"inputs": "x"}))
    while not wire.engine.requests:
        await asyncio.sleep(0)
    asking.cancel()
    while not any(entry["event"] == "request" for entry in wire.logs):
        await asyncio.sleep(0.001)
    said = line(wire)
    assert (said["status"], said["code"]) == (None, "client_left")


async def test_embeddings(wire: Wire) -> None:
    await wire.client.post("/v1/embeddings", json={"model": "alice", "input": ["ab", "c"]})
    said = line(wire)
    assert (said["adapters"], said["num_prompt_tokens"]) == (["alice"], 3)
