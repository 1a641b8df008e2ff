"""What /v1/embeddings refuses: by name, and with the bounds of one input and of all."""

from pathlib import Path
from typing import Any

import pytest

from embeddings import post
from lorax_serve.server.service import Limits
from wire import Wire, running


async def refused(wire: Wire, body: object, code: str = "invalid_request") -> str:
    reply = await wire.client.post("/v1/embeddings", json=body)
    error = (await reply.json())["error"]
    assert (reply.status, error["code"]) == (400, code)
    return str(error["message"])


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
