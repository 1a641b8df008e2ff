"""Headers of LoRAX's replies: counts, times, which adapter it was, and what was ignored."""

from lorax_serve.ipc.types import MergedAdapters
from wire import Wire

HEADERS = (
    "x-compute-type",
    "x-compute-time",
    "x-compute-characters",
    "x-total-time",
    "x-prompt-tokens",
    "x-generated-tokens",
    "x-skipped-tokens",
    "x-total-tokens",
    "x-validation-time",
    "x-queue-time",
    "x-inference-time",
    "x-time-per-token",
    "x-time-to-first-token",
    "x-time-per-output-token",
    "x-model-id",
)


async def test_apply_chat_template_is_ignored_as_in_lorax_and_says_so(wire: Wire) -> None:
    wire.will_say("ok")
    body = {"inputs": "hi", "parameters": {"apply_chat_template": True}}
    reply = await wire.client.post("/generate", json=body)
    assert await reply.json() == {"generated_text": "ok"}
    assert reply.headers["x-ignored-params"] == "parameters.apply_chat_template"


async def test_adapter_is_resolved_and_named_in_the_headers(wire: Wire) -> None:
    wire.will_say("ok")
    parameters = {"adapter_id": "ünï çode", "adapter_source": "LOCAL"}
    reply = await wire.client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    adapter = wire.engine.requests[0].adapter
    assert adapter is not None
    assert adapter.name == "ünï çode"
    assert reply.headers["x-adapter-id"] == "%C3%BCn%C3%AF %C3%A7ode"
    assert reply.headers["x-adapter-source"] == "local"


async def test_merged_adapters_are_named_in_the_headers(wire: Wire) -> None:
    wire.will_say("ok")
    parameters = {"merged_adapters": {"ids": ["ünï çode", "team/ops"], "weights": [2, -1]}}
    reply = await wire.client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert reply.status == 200
    adapter = wire.engine.requests[0].adapter
    assert isinstance(adapter, MergedAdapters)
    assert adapter.weights == (2, -1)
    assert reply.headers["x-adapter-id"] == "%C3%BCn%C3%AF %C3%A7ode,team/ops"
    assert reply.headers["x-adapter-source"] == "local"


async def test_reply_headers(wire: Wire) -> None:
    wire.will_say("ok")
    reply = await wire.client.post("/generate", json={"inputs": "hi", "extra": 1})
    assert [name for name in HEADERS if name not in reply.headers] == []
    for name in HEADERS:
        if name.endswith(("-time", "tokens")) or "-time-" in name:
            assert reply.headers[name].isdigit(), name
    assert reply.headers["x-prompt-tokens"] == "2"
    assert reply.headers["x-generated-tokens"] == "3"
    assert reply.headers["x-total-tokens"] == "5"
    assert reply.headers["x-queue-time"] == "2"
    assert reply.headers["x-compute-characters"] == "2"
    assert reply.headers["x-model-id"] == "tiny/base-model"
    assert reply.headers["x-ignored-params"] == "extra"
    assert "x-adapter-id" not in reply.headers


async def test_grammar_warnings_reach_the_client(wire: Wire) -> None:
    wire.will_say("{}")
    schema = {"type": "string", "format": "surely-unknown"}
    body = {
        "inputs": "hi",
        "parameters": {"response_format": {"type": "json_object", "schema": schema}},
    }
    reply = await wire.client.post("/generate", json=body)
    assert reply.status == 200, await reply.text()
    assert "format" in reply.headers["x-grammar-warnings"]
    assert wire.engine.requests[0].grammar is not None
