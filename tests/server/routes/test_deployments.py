"""Predibase's addresses: LoRAX's routes under the name of a deployment."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from lorax import Client

from wire import MODEL_ID, Wire

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


def address(model: str, route: str = "") -> str:
    return f"/acme/deployments/v2/llms/{model}{route}"


async def ask(wire: Wire, path: str, **parameters: object) -> tuple[int, Any]:
    reply = await wire.client.post(path, json={"inputs": "hi", "parameters": parameters})
    return reply.status, json.loads((await reply.text()).removeprefix("data: "))


def adapter_told(wire: Wire) -> str | None:
    (told,) = wire.engine.requests
    return told.adapter and told.adapter.name


@pytest.mark.parametrize("model", ["alice", "team/ops", quote("team/ops", safe=""), "ünï çode"])
async def test_a_deployment_called_like_an_adapter_is_that_adapter(wire: Wire, model: str) -> None:
    wire.will_say("o")
    assert await ask(wire, address(model, "/generate")) == (200, {"generated_text": "o"})
    assert adapter_told(wire) == model.replace("%2F", "/")


@pytest.mark.parametrize("adapter", ["alice", None])
async def test_in_the_served_models_parameters_name_the_adapter(
    wire: Wire, adapter: str | None
) -> None:
    wire.will_say("o")
    status, reply = await ask(wire, address(MODEL_ID, "/generate"), adapter_id=adapter)
    assert (status, reply) == (200, {"generated_text": "o"})
    assert adapter_told(wire) == adapter


async def test_a_stream(wire: Wire) -> None:
    wire.will_say("o")
    body = {"inputs": "hi"}
    streams = [
        await (await wire.client.post(path, json=body)).text()
        for path in (address("alice", "/generate_stream"), "/generate_stream")
    ]
    assert streams[0] == streams[1]
    assert [told.adapter and told.adapter.name for told in wire.engine.requests] == ["alice", None]


async def test_loraxs_client_at_a_deployment(wire: Wire) -> None:
    wire.will_say("Hello")
    client = Client(wire.url + address("alice"), headers={"Authorization": "Bearer pb_1"})
    reply = await asyncio.to_thread(client.generate, "hi")
    assert reply.generated_text == "Hello"
    assert adapter_told(wire) == "alice"
    events = await asyncio.to_thread(lambda: list(client.generate_stream("hi")))
    assert events[-1].generated_text == "Hello"


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"adapter_id": "alice"}, "adapter_id"),
        ({"merged_adapters": {"ids": ["alice"], "weights": [1]}}, "merged_adapters"),
    ],
)
async def test_adapters_of_what_is_not_served(
    wire: Wire, parameters: dict[str, object], named: str
) -> None:
    status, reply = await ask(wire, address("llama-3", "/generate"), **parameters)
    assert (status, reply["error_type"]) == (422, "validation")
    assert f"`parameters.{named}`" in reply["error"]
    assert wire.engine.requests == []


@pytest.mark.parametrize("route", ["", "/generate", "/generate_stream"])
@pytest.mark.parametrize("model", ["llama-3", "../alice", "a" * 5000])
async def test_what_is_neither_the_model_nor_an_adapter(wire: Wire, model: str, route: str) -> None:
    path = address(quote(model, safe=""), route)
    status, reply = await ask(wire, path)
    assert (status, reply["error_type"]) == (424, "generation")
    assert f"Adapter '{model[:128]}" in reply["error"]
