import pytest

from fake_engine import Tokens
from lorax_serve.ipc.types import ErrorCode, FinishReason
from lorax_serve.server.errors import EngineLost, ServeError
from wire import Wire


@pytest.mark.parametrize("path", ["/", "/health"])
async def test_health_never_asks_the_engine(wire: Wire, path: str) -> None:
    wire.engine.is_ready = False
    reply = await wire.client.get(path)
    assert (reply.status, await reply.read()) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/ready"), ("GET", "/ping"), ("POST", "/ping")]
)
async def test_ready(wire: Wire, method: str, path: str) -> None:
    reply = await wire.client.request(method, path)
    assert (reply.status, await reply.read()) == (200, b"")
    wire.engine.is_ready = False
    reply = await wire.client.request(method, path)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    assert (await reply.json())["error_type"] == "not_ready"


async def test_version(wire: Wire) -> None:
    wire.engine.is_ready = False
    reply = await wire.client.get("/version")
    assert await reply.json() == {"version": "0.1.0-test"}


async def test_startup_generates_one_token_of_the_base_model(wire: Wire) -> None:
    wire.engine.script = [Tokens([40], FinishReason.LENGTH)]
    reply = await wire.client.get("/startup")
    assert (reply.status, await reply.read()) == (200, b"")
    (told,) = wire.engine.requests
    assert (told.adapter, told.stop.max_new_tokens, told.sampling.temperature) == (None, 1, 0)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ServeError(ErrorCode.GENERATION_ERROR, "It failed."), "generation"),
        (EngineLost(), "incomplete_generation"),
        (ServeError(ErrorCode.QUEUE_FULL, "Full."), "overloaded"),
        (RuntimeError("secret"), "internal_error"),
    ],
)
async def test_whatever_fails_at_the_start_is_a_500(
    wire: Wire, failure: Exception, kind: str
) -> None:
    wire.engine.script = [failure]
    reply = await wire.client.get("/startup")
    assert (reply.status, (await reply.json())["error_type"]) == (500, kind)
    assert "secret" not in await reply.text()


async def test_startup_before_the_engine_is_ready(wire: Wire) -> None:
    wire.engine.is_ready = False
    reply = await wire.client.get("/startup")
    assert (reply.status, (await reply.json())["error_type"]) == (503, "not_ready")


async def test_info_has_loraxs_fields(wire: Wire) -> None:
    reply = await wire.client.get("/info")
    assert await reply.json() == {
        "model_id": "tiny/base-model",
        "model_sha": "abc123",
        "model_dtype": "float32",
        "model_device_type": "cpu",
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": 256,
        "max_best_of": 16,
        "max_stop_sequences": 16,
        "max_input_length": 255,
        "max_total_tokens": 256,
        "waiting_served_ratio": 0.0,
        "max_batch_total_tokens": 1024,
        "max_waiting_tokens": 0,
        "validation_workers": 1,
        "eager_prefill": True,
        "version": "0.1.0-test",
        "sha": None,
        "docker_label": None,
        "request_logger_url": None,
    }


@pytest.mark.parametrize(
    "path", ["/generate", "/embed", "/v1/embeddings", "/v1/completions", "/v1/chat/completions"]
)
async def test_before_the_engine_is_ready(wire: Wire, path: str) -> None:
    wire.engine.is_ready = False
    body = {"inputs": "x", "model": "", "prompt": "x", "input": "x"}
    if "chat" in path:
        body = {"model": "", "messages": [{"role": "user", "content": "x"}]}  # type: ignore[dict-item]
    reply = await wire.client.post(path, json=body)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")


async def test_models_before_the_engine_is_ready(wire: Wire) -> None:
    wire.engine.is_ready = False
    reply = await wire.client.get("/v1/models")
    models = (await reply.json())["data"]
    assert models[0]["id"] == "tiny/base-model"
    assert "max_model_len" not in models[0]
