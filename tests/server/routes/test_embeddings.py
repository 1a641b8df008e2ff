"""/v1/embeddings by the published openai package, /embed by lorax-client, and what both refuse."""

import asyncio
import struct
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from lorax import Client
from lorax.errors import GenerationError, ValidationError
from openai import AsyncOpenAI, OpenAI
from openai.types import CreateEmbeddingResponse

from fake_engine import pooled_vector
from lorax_serve.ipc.types import ErrorCode, MergeStrategy, Pooling
from lorax_serve.server.embedding import MAX_EMBEDDED_AT_ONCE
from lorax_serve.server.errors import EngineLost, ServeError
from lorax_serve.server.service import Limits
from wire import MODEL_ID, Wire, files_with_bos, running

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

HIDDEN_SIZE = 4


@pytest_asyncio.fixture
async def client(wire: Wire) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="EMPTY", max_retries=0) as made:
        yield made


def floats(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{HIDDEN_SIZE}f", vector))


async def post(wire: Wire, body: object, path: str = "/v1/embeddings") -> Any:
    reply = await wire.client.post(path, json=body)
    assert reply.status == 200, await reply.text()
    assert reply.content_type == "application/json"
    return await reply.json()


async def refused(wire: Wire, body: object, code: str = "invalid_request") -> str:
    reply = await wire.client.post("/v1/embeddings", json=body)
    error = (await reply.json())["error"]
    assert (reply.status, error["code"]) == (400, code)
    return str(error["message"])


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


async def test_more_inputs_than_run_at_a_time(wire: Wire) -> None:
    """So many have places; the others follow, and one after the other is replied."""
    gate = asyncio.Event()
    wire.engine.script = [gate]
    number = 3 * MAX_EMBEDDED_AT_ONCE + 5
    given = [[5 + i] for i in range(number)]
    reply = asyncio.ensure_future(post(wire, {"model": "", "input": given}))
    while len(wire.engine.pooled) < MAX_EMBEDDED_AT_ONCE:
        await asyncio.sleep(0)
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
    while len(wire.engine.pooled) < 2:
        await asyncio.sleep(0)
    leaving.cancel()
    while len(wire.engine.aborted) < 2:
        await wire.engine.changed.wait()
        await asyncio.sleep(0)
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
        while len(wire.engine.pooled) < 2:
            await asyncio.sleep(0)
        for path, more in (("/v1/embeddings", body), ("/embed", {"inputs": "a"})):
            reply = await wire.client.post(path, json=more)
            assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
        gate.set()
        assert len((await first)["data"]) == 9
        await post(wire, {"inputs": "a"}, "/embed")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"input": None}, "`input` is required"),
        ({"model": None}, "`model` is required"),
        ({"input": ""}, "`input`"),
        ({"input": []}, "`input`"),
        ({"input": ["a", ""]}, "`input` has an item that is empty"),
        ({"input": [[]]}, "`input` has an item that is empty"),
        ({"input": ["a", 5]}, "`input` mixes"),
        ({"input": [-1]}, "`input[0]`"),
        ({"input": [5, 384]}, "`check_embedding_ctx_length=False`"),
        ({"input": [[5], [384]]}, "`input[1]`: There is a token id outside the vocabulary of 384"),
        ({"encoding_format": "int8"}, "`encoding_format`"),
        ({"dimensions": 2}, "`dimensions` is not 4"),
        ({"dimensions": 5}, "`dimensions` is not 4"),
        ({"dimensions": 0}, "`dimensions`"),
    ],
)
async def test_what_is_refused_by_name(wire: Wire, fields: dict[str, Any], says: str) -> None:
    assert says in await refused(wire, {"model": "", "input": "a"} | fields)
    assert wire.engine.pooled == []


@pytest.mark.parametrize("name", ["truncate_prompt_tokens", "input_type", "task", "parameters"])
async def test_what_would_make_other_vectors(wire: Wire, name: str) -> None:
    body = {"model": "", "input": "a", name: "x"}
    message = await refused(wire, body, "unsupported_parameter")
    assert f"`{name}`" in message
    assert ("write `model`" in message) == (name == "parameters")


async def test_a_prompt_may_fill_the_context(wire: Wire) -> None:
    await post(wire, {"model": "", "input": [[5] * 256, [6]]})
    for given, says in (([[6], [5] * 257], "`input[1]`: "), ([5] * 257, "257 tokens")):
        body = {"model": "", "input": given}
        message = await refused(wire, body, "context_length_exceeded")
        assert says in message
        assert "at most 256" in message
    text = await refused(wire, {"model": "", "input": "7" * 300}, "context_length_exceeded")
    assert "at most 256" in text


async def test_all_inputs_together_have_bounds(wire_files: Path) -> None:
    limits = Limits(max_embedding_inputs=3, max_embedding_tokens=256)
    async with running(wire_files, limits) as wire:
        await post(wire, {"model": "", "input": [[5] * 100, [5] * 100, [5] * 56]})
        body: dict[str, Any] = {"model": "", "input": [[5] * 100, [5] * 100, [5] * 57]}
        assert "more than 256 tokens" in await refused(wire, body)
        body["input"] = ["a"] * 4
        assert "at most 3" in await refused(wire, body)
        assert len(wire.engine.pooled) == 3


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

    with lorax(wire) as theirs:
        reply = await asyncio.to_thread(theirs.embed, "hi")
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
    with lorax(wire) as theirs:
        with pytest.raises(ValidationError, match="at most 256"):
            await asyncio.to_thread(theirs.embed, "7" * 300)
        wire.engine.script = [ServeError(ErrorCode.GENERATION_ERROR, "The model is ill.")]
        with pytest.raises(GenerationError, match=r"The model is ill\."):
            await asyncio.to_thread(theirs.embed, "hi")
        for method, given in (("classify", "x"), ("classify_batch", ["x"])):
            with pytest.raises(ValidationError, match="no classification head"):
                await asyncio.to_thread(getattr(theirs, method), given)


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


@contextmanager
def lorax(wire: Wire) -> Iterator[Client]:
    made = Client(wire.url)
    try:
        yield made
    finally:
        if made.session is not None:
            made.session.close()
