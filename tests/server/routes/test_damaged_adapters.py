"""Fault 15 over HTTP: what the engine finds damaged is fetched again once, and nothing else."""

import os
from pathlib import Path

import pytest

from hub_stand_in import WEIGHTS, adapter_repository
from lorax_serve.ipc.types import ErrorCode, MergedAdapters
from lorax_serve.server.errors import ServeError
from lorax_serve.server.keys import SERVICE
from served_hub import BODIES, Serve

DAMAGED = (ErrorCode.ADAPTER_CORRUPT, ErrorCode.ADAPTER_CHANGED, ErrorCode.MODEL_NOT_FOUND)


@pytest.mark.parametrize("code", DAMAGED)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_fault_15_what_the_engine_finds_damaged_is_fetched_again_once(
    serve: Serve, path: str, stream: bool, code: ErrorCode
) -> None:
    async with serve() as served:
        served.engine.script = [ServeError(code, "The file is damaged.")]
        for num_fetched in (1, 2, 2):
            await (await served.post(path, "org/open", stream=stream)).read()
            assert served.hub.num_weight_requests == num_fetched
        assert served.store.num_entries == 1


async def test_other_failures_of_the_engine_fetch_nothing_again(serve: Serve) -> None:
    async with serve() as served:
        for code in set(ErrorCode).difference(DAMAGED):
            served.engine.script = [ServeError(code, "No such luck.")]
            await (await served.post("/generate", "org/open")).read()
        assert served.hub.num_weight_requests == 1


async def test_fault_15_of_a_merges_parts_only_the_damaged_is_fetched_again(serve: Serve) -> None:
    async with serve() as served:
        served.hub.repositories["org/other"] = adapter_repository(WEIGHTS[::-1])
        merge = {"ids": ["org/open", "org/other"], "weights": [1, 1]}
        parameters = {"adapter_source": "hub", "merged_adapters": merge}
        body = {"inputs": "x", "parameters": parameters}
        served.engine.script = [ServeError(ErrorCode.ADAPTER_CORRUPT, "One is damaged.")]
        await (await served.client.post("/generate", json=body)).read()
        assert served.hub.num_weight_requests == 2
        parts = served.engine.requests[0].adapter
        assert isinstance(parts, MergedAdapters)
        weights = Path(parts.parts[1].path) / "adapter_model.safetensors"
        before = weights.stat()
        weights.write_bytes(WEIGHTS)
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # its state gives no hint
        await (await served.client.post("/generate", json=body)).read()
        assert served.hub.num_weight_requests == 3


async def test_fault_15_an_operators_command_finds_the_damage_too(serve: Serve) -> None:
    async with serve() as served:
        served.engine.refusal = ServeError(ErrorCode.ADAPTER_CORRUPT, "The file is damaged.")
        operations = served.client.app[SERVICE].desk.operations
        for num_fetched in (1, 2, 2):
            with pytest.raises(ServeError, match="damaged"):
                await operations.preload("org/open", "hub", pin=True)
            assert served.hub.num_weight_requests == num_fetched
