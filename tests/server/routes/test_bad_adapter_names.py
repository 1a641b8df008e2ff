"""Adapters that do not exist, and sources that are not served, in the words of each API."""

import pytest

from refusals import NATIVE, OPENAI, openai_body, refused, serves_on
from wire import Wire


async def test_an_unknown_model_is_said_in_the_words_of_each_api(wire: Wire) -> None:
    reply = await wire.client.post("/v1/completions", json=openai_body("", model="gpt-4"))
    error = (await reply.json())["error"]
    assert error["message"] == "Model 'gpt-4' does not exist."
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    body = {"inputs": "hi", "parameters": {"adapter_id": "gpt-4"}}
    reply = await wire.client.post("/generate", json=body)
    assert (await reply.json())["error"] == "Adapter 'gpt-4' does not exist."


TRAVERSALS = [
    "/etc",
    "../adapters/alice",
    "alice/../alice",
    "..",
    ".",
    "alice/",
    "//alice",
    "%2e%2e/alice",
    "alice\0",
    "a\\b",
    "nobody",
    "не существует",
    "http://169.254.169.254/",
    "alice\r\nx-injected: 1",
    "x" * 600,
]


@pytest.mark.parametrize("adapter_id", TRAVERSALS, ids=lambda value: repr(value)[:40])
async def test_adapters_that_do_not_exist(wire: Wire, adapter_id: str) -> None:
    body = {"inputs": "hi", "parameters": {"adapter_id": adapter_id}}
    for path in NATIVE:
        sentence, kind = await refused(await wire.client.post(path, json=body), 424)
        assert kind == "generation"
        assert sentence.startswith("Adapter '")
    for path in OPENAI:
        reply = await wire.client.post(path, json=openai_body(path, model=adapter_id))
        assert (await refused(reply, 404))[1] == "model_not_found"
        assert (await reply.json())["error"]["param"] == "model"
    await serves_on(wire)


@pytest.mark.parametrize("source", ["hub", "s3", "pbase", "HUB", "nonsense"])
async def test_adapter_sources(wire: Wire, source: str) -> None:
    parameters = {"adapter_id": "alice", "adapter_source": source}
    body: dict[str, object] = {"inputs": "hi", "parameters": parameters}
    sentence, kind = await refused(await wire.client.post("/generate", json=body), 424)
    assert kind == "generation"
    assert "`adapter_source`" in sentence
    for path in OPENAI:
        body = openai_body(path, model="alice", adapter_source=source)
        assert (await refused(await wire.client.post(path, json=body), 400))[1] == (
            "unsupported_parameter"
        )
