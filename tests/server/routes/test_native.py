"""LoRAX's routes against the types its published client parses replies with."""

import pytest
from lorax.types import Request as LoraxRequest
from lorax.types import Response as LoraxResponse

from fake_engine import Tokens
from lorax_serve.ipc.types import FinishReason
from native_replies import ask, stream
from wire import Wire


async def test_generate_answers_one_object(wire: Wire) -> None:
    wire.will_say("Hello wörld")
    assert await ask(wire) == {"generated_text": "Hello wörld"}


async def test_root_answers_a_list_of_one(wire: Wire) -> None:
    wire.will_say("Hello")
    assert await ask(wire, "/") == [{"generated_text": "Hello"}]


async def test_details_have_the_contracts_fields(wire: Wire) -> None:
    wire.will_say("ok")
    (reply,) = await ask(wire, "/", details=True, return_k_alternatives=2)
    LoraxResponse.model_validate(reply)
    tokens = reply["details"].pop("tokens")
    assert reply["details"] == {
        "finish_reason": "eos_token",
        "prompt_tokens": 2,
        "generated_tokens": 3,
        "skipped_tokens": 0,
        "seed": None,
        "prefill": [],
    }
    assert tokens[0] == {
        "id": wire.spell("o")[0],
        "text": "o",
        "logprob": -0.5,
        "special": False,
        "skipped": False,
        "alternative_tokens": [
            {"id": 0, "text": "<|endoftext|>", "logprob": -1.0},
            {"id": 1, "text": "<|im_start|>", "logprob": -2.0},
        ],
    }


async def test_without_alternatives_the_key_is_absent(wire: Wire) -> None:
    wire.will_say("ok")
    reply = await ask(wire, details=True)
    assert "alternative_tokens" not in reply["details"]["tokens"][0]


async def test_the_end_token_is_listed_and_counted_but_not_in_the_text(wire: Wire) -> None:
    wire.will_say("ok")
    reply = await ask(wire, details=True)
    assert reply["generated_text"] == "ok"
    assert reply["details"]["generated_tokens"] == 3
    last = reply["details"]["tokens"][-1]
    assert (last["id"], last["text"], last["special"]) == (wire.eos, "<|im_end|>", True)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        (FinishReason.EOS, "eos_token"),
        (FinishReason.LENGTH, "length"),
        (FinishReason.STOP_TOKEN, "stop_sequence"),
    ],
)
async def test_finish_reasons(wire: Wire, finish: FinishReason, reason: str) -> None:
    wire.engine.script = [Tokens(wire.spell("ok")), Tokens([wire.eos], finish)]
    assert (await ask(wire, details=True))["details"]["finish_reason"] == reason
    assert (await stream(wire, details=True))[-1]["details"]["finish_reason"] == reason


async def test_a_stop_string_stays_in_the_text_and_ends_the_generation(wire: Wire) -> None:
    wire.will_say("one, two, three", finish=None)
    reply = await ask(wire, stop=["two", "x"], details=True)
    assert reply["generated_text"] == "one, two"
    assert reply["details"]["finish_reason"] == "stop_sequence"
    assert reply["details"]["generated_tokens"] == len("one, two")
    assert wire.engine.aborted == [wire.engine.requests[0].request_id]


async def test_a_stop_string_ends_inside_a_token(wire: Wire) -> None:
    token_id = wire.token(b" shells")
    wire.engine.script = [Tokens([*wire.spell("the"), token_id, *wire.spell(" more")])]
    reply = await ask(wire, stop=["she"], details=True)
    assert reply["generated_text"] == "the she"
    assert reply["details"]["tokens"][-1]["text"] == " she"
    assert reply["details"]["generated_tokens"] == 4


async def test_a_stop_string_on_the_last_permitted_token_is_a_stop(wire: Wire) -> None:
    wire.will_say("one", finish=FinishReason.LENGTH)
    reply = await ask(wire, stop="ne", details=True)
    assert reply["details"]["finish_reason"] == "stop_sequence"


async def test_return_full_text_prepends_the_prompt(wire: Wire) -> None:
    wire.will_say(" there")
    assert await ask(wire, return_full_text=True) == {"generated_text": "hi there"}
    assert (await stream(wire, return_full_text=True))[-1]["generated_text"] == "hi there"


@pytest.mark.parametrize("seed", [7, 2**63, 2**64 - 1])
async def test_a_seed_is_shown_as_it_was_given(wire: Wire, seed: int) -> None:
    wire.will_say("ok")
    reply = await ask(wire, details=True, do_sample=True, seed=seed)
    assert reply["details"]["seed"] == seed
    *_, last = await stream(wire, details=True, do_sample=True, seed=seed)
    assert last["details"]["seed"] == seed


async def test_a_drawn_seed_is_shown(wire: Wire) -> None:
    wire.will_say("ok")
    reply = await ask(wire, details=True, do_sample=True)
    assert reply["details"]["seed"] == wire.engine.requests[0].sampling.seed


async def test_a_token_for_hubs_is_accepted_and_goes_nowhere(wire: Wire) -> None:
    wire.will_say("ok")
    parameters = {"adapter_id": "alice", "api_token": "secret-token"}
    reply = await wire.client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert await reply.json() == {"generated_text": "ok"}
    assert "x-ignored-params" not in reply.headers
    assert "secret-token" not in repr((wire.engine.requests, wire.logs))


async def test_the_clients_null_filled_body_is_accepted(wire: Wire) -> None:
    wire.will_say("ok")
    body = LoraxRequest(inputs="hi", parameters={}).model_dump(by_alias=True)
    reply = await wire.client.post("/", json=body)
    assert await reply.json() == [{"generated_text": "ok"}]
    assert "x-ignored-params" not in reply.headers


@pytest.mark.parametrize("parameters", [None, {}, {"adapter_id": ""}, {"adapter_id": None}])
async def test_base_model_by_default(wire: Wire, parameters: object) -> None:
    wire.will_say("ok")
    await wire.client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert wire.engine.requests[0].adapter is None


async def test_logprobs_are_asked_for_only_when_tokens_are_listed(wire: Wire) -> None:
    wire.will_say("ok")
    await ask(wire)
    await ask(wire, details=True)
    await ask(wire, details=True, return_k_alternatives=3)
    await stream(wire)
    asked = [request.sampling.num_logprobs for request in wire.engine.requests]
    assert asked == [None, 0, 3, 0]
