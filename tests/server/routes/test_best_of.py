"""best_of: the likeliest of several answers, in both APIs, and where it makes no sense."""

from typing import Any

import openai
import pytest
from lorax.types import Response as LoraxResponse

from wire import Wire


async def test_best_of_shows_the_likeliest(wire: Wire, client: Any) -> None:
    """The fake engine's tokens are all alike, so the first ones are the best."""
    wire.will_each_say("a", "b", "c")
    reply = await client.completions.create(model="", prompt="x", n=2, best_of=3)
    assert [choice.text for choice in reply.choices] == ["a", "b"]
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert [choice.logprobs for choice in reply.choices] == [None, None]
    assert [each.sampling.num_logprobs for each in wire.engine.requests] == [0, 0, 0]
    assert reply.usage.completion_tokens == 6


@pytest.mark.parametrize(
    "fields",
    [{"best_of": 2, "stream": True}, {"n": 3, "best_of": 2}, {"best_of": 21}, {"n": 17}],
    ids=str,
)
async def test_best_of_that_makes_no_sense(client: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(model="", prompt="x", **fields)


async def test_native_best_of(wire: Wire) -> None:
    wire.will_each_say("a", "bb", "ccc")
    parameters = {"best_of": 3, "do_sample": True, "details": True, "decoder_input_details": True}
    reply = await wire.client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    body = await reply.json()
    LoraxResponse.model_validate(body)
    assert body["generated_text"] == "a"
    details = body["details"]
    assert [each["generated_text"] for each in details["best_of_sequences"]] == ["bb", "ccc"]
    assert [each["generated_tokens"] for each in details["best_of_sequences"]] == [3, 4]
    seeds = [details["seed"], *(each["seed"] for each in details["best_of_sequences"])]
    assert seeds == [each.sampling.seed for each in wire.engine.requests]
    assert len(set(seeds)) == 3
    ids = wire.engine.requests[0].prompt_token_ids
    assert [token["id"] for token in details["prefill"]] == ids
    assert [token["logprob"] for token in details["prefill"]] == [None, -1.0]
    assert reply.headers["x-generated-tokens"] == "9"


@pytest.mark.parametrize(
    ("parameters", "path", "field"),
    [
        ({"best_of": 2}, "/generate", "parameters.best_of"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "/generate", "parameters.best_of"),
        ({"best_of": 2, "do_sample": True}, "/generate_stream", "parameters.best_of"),
        ({"decoder_input_details": True}, "/generate_stream", "parameters.decoder_input_details"),
    ],
)
async def test_native_refusals(
    wire: Wire, parameters: dict[str, object], path: str, field: str
) -> None:
    reply = await wire.client.post(path, json={"inputs": "hi", "parameters": parameters})
    assert reply.status == 422
    assert f"`{field}`" in (await reply.json())["error"]
