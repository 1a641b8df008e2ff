"""A model that is a folder of this machine: clients may name it by its path, and never see one."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from fake_engine import FakeEngine, Tokens
from lorax_serve.ipc.types import FinishReason
from lorax_serve.server.app import build_app
from wire import MODEL_ID, make_service, running, write_files

PATH = "/srv/models/base-model"


@pytest_asyncio.fixture
async def client(wire_files: Path) -> AsyncIterator[TestClient[Any, Any]]:
    service = replace(make_service(wire_files, FakeEngine()), model_aliases=frozenset((PATH,)))
    assert isinstance(service.engine, FakeEngine)
    service.engine.script = [Tokens([5], FinishReason.LENGTH)]
    async with TestClient(TestServer(build_app(service))) as made:
        yield made
    service.tokenizer.close()


@pytest.mark.parametrize(
    "address", ["/info", "/v1/models", "/v1/models/alice", f"/v1/models/{PATH}"]
)
async def test_the_path_is_shown_nowhere(client: TestClient[Any, Any], address: str) -> None:
    reply = await client.get(address)
    text = await reply.text()
    assert reply.status == 200
    assert MODEL_ID in text
    assert PATH not in text + str(reply.headers)


async def test_the_path_is_the_base_model(client: TestClient[Any, Any]) -> None:
    assert (await (await client.get(f"/v1/models/{PATH}")).json())["id"] == MODEL_ID


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_an_answer_names_the_base_model_not_its_path(
    client: TestClient[Any, Any], path: str, stream: bool
) -> None:
    asked = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "x"}
    reply = await client.post(path, json={"model": PATH, "stream": stream, **asked})
    text = await reply.text()
    assert reply.status == 200
    assert f'"model":"{MODEL_ID}"' in text
    assert PATH not in text + str(reply.headers)


async def test_a_folder_that_cannot_be_served_is_not_listed(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    (files / "adapters" / "alice" / "adapter_model.safetensors").rename(tmp_path / "weights")
    async with running(files) as wire:
        models = (await (await wire.client.get("/v1/models")).json())["data"]
        assert [model["id"] for model in models] == [MODEL_ID, "team/ops", "ünï çode"]
