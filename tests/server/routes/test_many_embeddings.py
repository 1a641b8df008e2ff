"""Many inputs at once: how many run, who has places, and what ends them all."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from embeddings import floats, post
from fake_engine import pooled_vector
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.embedding import MAX_EMBEDDED_AT_ONCE
from lorax_serve.server.errors import EngineLost, ServeError
from lorax_serve.server.service import Limits
from waiting import until
from wire import Wire, running


async def test_more_inputs_than_run_at_a_time(wire: Wire) -> None:
    """So many have places; the others follow, and one after the other is replied."""
    gate = asyncio.Event()
    wire.engine.script = [gate]
    number = 3 * MAX_EMBEDDED_AT_ONCE + 5
    given = [[5 + i] for i in range(number)]
    reply = asyncio.ensure_future(post(wire, {"model": "", "input": given}))
    await until(lambda: len(wire.engine.pooled) >= MAX_EMBEDDED_AT_ONCE)
    assert (await wire.client.get("/health")).status == 200
    assert len(wire.engine.pooled) == MAX_EMBEDDED_AT_ONCE
    gate.set()
    shown = [each["embedding"] for each in (await reply)["data"]]
    assert shown == [floats(pooled_vector(ids)) for ids in given]


async def test_one_that_fails_ends_all(wire: Wire) -> None:
    wire.engine.script = [asyncio.Event()]
    wire.engine.scripts[1] = [ServeError(ErrorCode.GENERATION_ERROR, "The model is ill.")]
    body = {"model": "alice", "input": ["a", "b", "c"]}
    reply = await wire.client.post("/v1/embeddings", json=body)
    assert (reply.status, (await reply.json())["error"]["message"]) == (500, "The model is ill.")
    first, _, third = wire.engine.pooled
    assert set(wire.engine.aborted) == {first.request_id, third.request_id}
    record = wire.service.desk.records.get("local", "alice")
    assert record is not None
    assert record.errors[ErrorCode.GENERATION_ERROR] == 1
    assert (record.num_requests, record.num_in_flight) == (1, 0)


async def test_a_client_that_leaves_aborts_what_runs(wire: Wire) -> None:
    wire.engine.script = [asyncio.Event()]
    body = {"model": "alice", "input": ["a", "b"]}
    leaving = asyncio.ensure_future(wire.client.post("/v1/embeddings", json=body))
    await until(lambda: len(wire.engine.pooled) >= 2)
    leaving.cancel()
    await until(lambda: len(wire.engine.aborted) >= 2)
    assert set(wire.engine.aborted) == {each.request_id for each in wire.engine.pooled}


async def test_an_engine_that_dies(wire: Wire, client: Any) -> None:
    wire.engine.script = [EngineLost()]
    with pytest.raises(openai.InternalServerError) as caught:
        await client.embeddings.create(model="", input=["a", "b"])
    assert (caught.value.status_code, caught.value.code) == (503, "engine_lost")


async def test_an_adapter_whose_files_were_replaced_is_asked_for_again(wire: Wire) -> None:
    def changed() -> ServeError:
        return ServeError(ErrorCode.ADAPTER_CHANGED, "Its files changed.")

    wire.engine.failures = [changed, changed]
    await post(wire, {"model": "alice", "input": "a"})
    assert len({each.request_id for each in wire.engine.pooled}) == 3
    wire.engine.failures = [changed, changed, changed]
    reply = await wire.client.post("/v1/embeddings", json={"model": "alice", "input": "a"})
    assert (reply.status, (await reply.json())["error"]["code"]) == (503, "adapter_changed")


async def test_places_count_and_come_back(wire_files: Path) -> None:
    async with running(wire_files, Limits(max_concurrent_requests=2)) as wire:
        gate = asyncio.Event()
        wire.engine.script = [gate]
        body = {"model": "", "input": ["a"] * 9}
        first = asyncio.ensure_future(post(wire, body))
        await until(lambda: len(wire.engine.pooled) >= 2)
        for path, more in (("/v1/embeddings", body), ("/embed", {"inputs": "a"})):
            reply = await wire.client.post(path, json=more)
            assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
        gate.set()
        assert len((await first)["data"]) == 9
        await post(wire, {"inputs": "a"}, "/embed")
