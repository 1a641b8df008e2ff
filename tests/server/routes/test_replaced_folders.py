"""A folder that is replaced between a request and its reading: the request is sent once more."""

import os
from pathlib import Path

import pytest

from lorax_serve.ipc.types import AdapterRef, ErrorCode, MergedAdapters
from lorax_serve.server.errors import ServeError
from wire import Wire


def replaced(wire: Wire) -> ServeError:
    """Somebody writes to alice's folder, and the engine notices."""
    first = wire.engine.requests[0].adapter
    assert first is not None
    part = first.parts[0] if isinstance(first, MergedAdapters) else first
    config = Path(part.path) / "adapter_config.json"
    content = config.read_bytes()
    config.unlink()
    config.write_bytes(content)
    os.utime(config, (0, len(wire.engine.requests)))
    return ServeError(ErrorCode.ADAPTER_CHANGED, "Its files were replaced.")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_request_means_the_new_files(wire: Wire, stream: bool) -> None:
    wire.will_say("hello")
    wire.engine.failures = [lambda: replaced(wire)] * 2
    body = {"model": "alice", "prompt": "x", "stream": stream}
    reply = await wire.client.post("/v1/completions", json=body)
    text = await reply.text()
    assert reply.status == 200 and "error" not in text
    asked = wire.engine.requests
    adapters = [each.adapter for each in asked if isinstance(each.adapter, AdapterRef)]
    assert len({each.revision for each in adapters}) == 3 == len({a.request_id for a in asked})
    assert all(each.is_writable and each.name == "alice" for each in adapters)
    assert len({each.sampling.seed for each in asked}) == 1


async def test_files_that_never_come_to_rest_fail_the_request(wire: Wire) -> None:
    wire.engine.failures = [lambda: replaced(wire)] * 5
    reply = await wire.client.post("/v1/completions", json={"model": "alice", "prompt": "x"})
    error = (await reply.json())["error"]
    assert (reply.status, error["code"]) == (503, ErrorCode.ADAPTER_CHANGED.value)
    assert reply.headers["Retry-After"] == "1"
    assert len(wire.engine.requests) == 3


async def test_the_parts_of_a_merge_are_looked_at_again(wire: Wire) -> None:
    wire.will_say("hello")
    wire.engine.failures = [lambda: replaced(wire)]
    merge = {"ids": ["alice", "team/ops"], "weights": [1, 1]}
    body = {"inputs": "x", "parameters": {"merged_adapters": merge}}
    reply = await wire.client.post("/generate", json=body)
    assert reply.status == 200
    before, after = (each.adapter for each in wire.engine.requests)
    assert isinstance(before, MergedAdapters) and isinstance(after, MergedAdapters)
    assert before.parts[0].revision != after.parts[0].revision
    assert before.parts[1] == after.parts[1] and before.weights == after.weights


async def test_after_the_first_token_nothing_is_sent_again(wire: Wire) -> None:
    wire.will_say("he", finish=None)
    wire.engine.script = [
        *wire.engine.script,
        ServeError(ErrorCode.ADAPTER_CHANGED, "Its files were replaced."),
    ]
    reply = await wire.client.post("/v1/completions", json={"model": "alice", "prompt": "x"})
    assert reply.status == 503 and len(wire.engine.requests) == 1
