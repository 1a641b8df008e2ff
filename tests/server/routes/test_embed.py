"""/embed in the shape of LoRAX's documents, by lorax-client, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from lorax.errors import GenerationError, ValidationError

from embeddings import floats, post
from fake_engine import pooled_vector
from lorax_calls import call
from lorax_serve.ipc.types import ErrorCode, MergeStrategy, Pooling
from lorax_serve.server.errors import ServeError
from wire import Wire, running

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


async def test_the_operators_pooling(wire_files: Path) -> None:
    async with running(wire_files, embedding_pooling=Pooling.MEAN) as wire:
        await post(wire, {"inputs": "a"}, "/embed")
        assert wire.engine.pooled[0].pooling is Pooling.MEAN


async def test_embed(wire: Wire) -> None:
    """The shape in LoRAX's documents, and that of its client."""
    parameters = {"adapter_id": "alice", "adapter_source": "local", "api_token": "secret"}
    got = await post(wire, {"inputs": "hi", "parameters": parameters}, "/embed")
    vector = floats(pooled_vector(wire.tokenizer.encode("hi", add_special_tokens=True)))
    assert got == {"embeddings": vector}
    (pool,) = wire.engine.pooled
    assert pool.adapter is not None
    assert pool.adapter.name == "alice"
    assert pool.cache_salt != ""  # a caller with a token meets nobody else's prefixes

    reply = await call(wire, lambda client: client.embed("hi"))
    assert reply.embeddings == vector
    assert wire.engine.pooled[1].adapter is None


async def test_embed_with_a_merge(wire: Wire) -> None:
    merge = {"ids": ["alice", "team/ops"], "weights": [0.5, 2]}
    body = {"inputs": "hi", "parameters": {"merged_adapters": merge}}
    await post(wire, body, "/embed")
    (pool,) = wire.engine.pooled
    assert pool.adapter is not None
    assert pool.adapter.name == "alice,team/ops"
    assert pool.adapter.strategy is MergeStrategy.LINEAR


async def test_lorax_clients_errors(wire: Wire) -> None:
    with pytest.raises(ValidationError, match="at most 256"):
        await call(wire, lambda client: client.embed("7" * 300))
    wire.engine.script = [ServeError(ErrorCode.GENERATION_ERROR, "The model is ill.")]
    with pytest.raises(GenerationError, match=r"The model is ill\."):
        await call(wire, lambda client: client.embed("hi"))
    with pytest.raises(ValidationError, match="no classification head"):
        await call(wire, lambda client: client.classify("x"))
    with pytest.raises(ValidationError, match="no classification head"):
        await call(wire, lambda client: client.classify_batch(["x"]))


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 422, "`inputs` is required"),
        ({"inputs": ""}, 422, "`inputs`"),
        ({"inputs": ["a"]}, 422, "`inputs`"),
        ({"inputs": "a", "adapter_id": "alice"}, 422, "write `parameters.adapter_id`"),
        ({"inputs": "a", "parameters": {"adapter_id": "nobody"}}, 424, "'nobody'"),
        (
            {
                "inputs": "a",
                "parameters": {"adapter_id": "alice", "merged_adapters": {"ids": ["alice"]}},
            },
            422,
            "`parameters.merged_adapters` cannot",
        ),
    ],
)
async def test_embeds_refusals(wire: Wire, body: Any, status: int, says: str) -> None:
    reply = await wire.client.post("/embed", json=body)
    error = await reply.json()
    assert (reply.status, set(error)) == (status, {"error", "error_type"})
    assert says in error["error"]
