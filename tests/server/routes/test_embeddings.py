"""/v1/embeddings by the published openai package: every input's own vector, in its order."""

import asyncio
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types import CreateEmbeddingResponse

from embeddings import HIDDEN_SIZE, floats, post
from fake_engine import pooled_vector
from lorax_serve.ipc.types import Pooling
from wire import MODEL_ID, Wire, files_with_bos, running


@pytest.mark.parametrize("asked", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
async def test_openais_client(wire: Wire, client: Any, asked: dict[str, Any]) -> None:
    """Which asks for base64 unless its user does otherwise."""
    texts = ["hi", "Hello wörld", "x" * 200]
    reply = await client.embeddings.create(model="alice", input=texts, user="me", **asked)
    assert type(reply) is CreateEmbeddingResponse
    CreateEmbeddingResponse.model_validate(reply.model_dump(by_alias=True))
    assert set(reply.model_dump()) == {"object", "data", "model", "usage"}
    assert reply.model == "alice"
    assert [each.index for each in reply.data] == [0, 1, 2]
    # Every prompt its own vector, whichever was done first.
    prompts = [wire.tokenizer.encode(text, add_special_tokens=True) for text in texts]
    expected = [floats(pooled_vector(ids)) for ids in prompts]
    assert [each.embedding for each in reply.data] == expected
    num_tokens = sum(map(len, prompts))
    assert reply.usage.model_dump() == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    pools = {tuple(each.prompt_token_ids): each for each in wire.engine.pooled}
    assert set(pools) == set(map(tuple, prompts))
    assert {each.adapter.name for each in pools.values() if each.adapter} == {"alice"}
    assert {each.pooling for each in pools.values()} == {Pooling.LAST}


async def test_openais_blocking_client(wire: Wire) -> None:
    def use() -> CreateEmbeddingResponse:
        with OpenAI(base_url=f"{wire.url}/v1", api_key="EMPTY", max_retries=0) as made:
            return made.embeddings.create(model=MODEL_ID, input=[5, 6, 7], dimensions=HIDDEN_SIZE)

    reply = await asyncio.to_thread(use)
    assert reply.data[0].embedding == floats(pooled_vector([5, 6, 7]))
    assert reply.model == MODEL_ID
    (pool,) = wire.engine.pooled
    assert (pool.adapter, pool.cache_salt, pool.tenant) == (None, "", "")


async def test_the_bytes_of_base64(wire: Wire) -> None:
    body = {"model": "", "input": "hi", "encoding_format": "base64"}
    (item,) = (await post(wire, body))["data"]
    vector = pooled_vector(wire.tokenizer.encode("hi", add_special_tokens=True))
    assert item == {"object": "embedding", "index": 0, "embedding": item["embedding"]}
    assert b64decode(item["embedding"], validate=True) == vector


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        ([[5], "a"], None),
    ],
)
async def test_ids_and_lists(wire: Wire, given: Any, prompts: list[list[int]] | None) -> None:
    reply = await post(wire, {"model": "", "input": given})
    expected = prompts or [[5], wire.tokenizer.encode("a", add_special_tokens=True)]
    assert [each["embedding"] for each in reply["data"]] == [
        floats(pooled_vector(ids)) for ids in expected
    ]


async def test_special_tokens_are_the_tokenizers(wire_files: Path, tmp_path: Path) -> None:
    async with running(files_with_bos(wire_files, tmp_path)) as wire:
        body: dict[str, Any] = {"model": "", "input": "hi"}
        await post(wire, body)
        await post(wire, {"inputs": "hi"}, "/embed")
        await post(wire, body | {"add_special_tokens": False, "cache_salt": "mine"})
        framed, native, bare = (each.prompt_token_ids for each in wire.engine.pooled)
        assert framed == native == [wire.token(b"<|endoftext|>"), *bare]
        assert [bool(each.cache_salt) for each in wire.engine.pooled] == [False, False, True]
        salted = {"inputs": "x", "parameters": {"cache_salt": "mine"}}
        assert (await wire.client.post("/embed", json=salted)).status == 200
        assert wire.engine.pooled[-1].cache_salt == wire.engine.pooled[-2].cache_salt


async def test_headers(wire: Wire) -> None:
    body = {"model": "alice", "input": ["hi", [5, 6]], "colour": 1}
    reply = await wire.client.post("/v1/embeddings", json=body)
    assert reply.headers["x-adapter-id"] == "alice"
    assert reply.headers["x-adapter-source"] == "local"
    assert reply.headers["x-ignored-params"] == "colour"
    assert reply.headers["x-compute-characters"] == "2"
    assert reply.headers["x-prompt-tokens"] == reply.headers["x-total-tokens"]
    assert reply.headers["x-queue-time"] == "2"
    assert "x-generated-tokens" not in reply.headers
