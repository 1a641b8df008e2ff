import json
from typing import Any

import msgspec
import pytest
from lorax.types import Parameters as LoraxParameters

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.request import MAX_SEED, GenerationRequest, JsonObject
from lorax_serve.server.schema.native import PARAMETERS, generation_request, parse_body


def asked(*, streams: bool = False, **parameters: object) -> GenerationRequest:
    parsed, _ = PARAMETERS.parse(json.dumps(parameters).encode())
    return generation_request("hi", parsed, streams=streams)


# LoRAX's rule, and its fix: temperature 0 is greedy whatever stands beside it.
SAMPLING: list[tuple[dict[str, Any], float]] = [
    ({}, 0.0),
    ({"temperature": 1.0}, 0.0),
    ({"temperature": 1}, 0.0),
    ({"temperature": 0}, 0.0),
    ({"temperature": 0.7}, 0.7),
    ({"temperature": 1.5}, 1.5),
    ({"do_sample": True}, 1.0),
    ({"do_sample": True, "temperature": 1.0}, 1.0),
    ({"do_sample": True, "temperature": 0}, 0.0),
    ({"do_sample": True, "temperature": 0.5}, 0.5),
    ({"top_k": 5}, 1.0),
    ({"top_k": 5, "temperature": 0}, 0.0),
    ({"top_p": 0.9}, 1.0),
    ({"top_p": 1.0}, 0.0),
    ({"top_p": 0.9, "temperature": 1.0}, 1.0),
    ({"typical_p": 0.9}, 1.0),
    ({"typical_p": 0.9, "temperature": 0.0}, 0.0),
    ({"temperature": 1e-320}, 0.0),
    ({"do_sample": True, "temperature": 1e-9}, 0.0),
    ({"seed": 5}, 0.0),
    ({"repetition_penalty": 1.2}, 0.0),
]


@pytest.mark.parametrize(("parameters", "temperature"), SAMPLING)
def test_when_it_samples(parameters: dict[str, Any], temperature: float) -> None:
    assert asked(**parameters).sampling.temperature == temperature


@pytest.mark.parametrize(
    ("seed", "folded"),
    [(0, 0), (7, 7), (MAX_SEED, MAX_SEED), (2**63, 0), (2**64 - 1, MAX_SEED)],
)
def test_seeds_fold_into_63_bits(seed: int, folded: int) -> None:
    assert asked(seed=seed).sampling.seed == folded


def test_without_a_seed_each_request_draws_its_own() -> None:
    seeds = {asked(do_sample=True).sampling.seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


def test_all_parameters_arrive() -> None:
    request = asked(
        streams=True,
        adapter_id="a",
        adapter_source="Local",
        max_new_tokens=5,
        ignore_eos_token=True,
        stop=["x", "y"],
        truncate=3,
        return_k_alternatives=4,
        top_k=2,
        top_p=0.5,
        typical_p=0.25,
        repetition_penalty=1.5,
        frequency_penalty=-1,
        presence_penalty=2,
        response_format={"type": "json_object"},
        cache_salt="s",
    )
    assert request.cache_salt == "s"
    assert (request.adapter_id, request.max_new_tokens, request.truncate) == ("a", 5, 3)
    assert request.ignore_eos
    assert request.stop_strings == ("x", "y")
    assert request.keep_stop_string
    assert request.add_special_tokens
    assert request.constraint == JsonObject()
    sampling = request.sampling
    assert (sampling.top_k, sampling.top_p, sampling.typical_p) == (2, 0.5, 0.25)
    assert (sampling.repetition_penalty, sampling.frequency_penalty) == (1.5, -1.0)
    assert (sampling.presence_penalty, sampling.num_logprobs) == (2.0, 4)


def test_the_clients_defaults_change_nothing() -> None:
    sent = LoraxParameters().model_dump(by_alias=True)
    plain, filled = asked(seed=1), asked(**sent | {"seed": 1})
    assert filled == plain


@pytest.mark.parametrize(
    ("body", "instead"),
    [
        ({"adapter_id": "a"}, "parameters.adapter_id"),
        ({"adapter_source": "hub"}, "parameters.adapter_source"),
        ({"api_token": "t"}, "parameters.api_token"),
        ({"max_new_tokens": 5}, "parameters.max_new_tokens"),
        ({"parameters": {"max_tokens": 5}}, "parameters.max_new_tokens"),
        ({"parameters": {"max_completion_tokens": 5}}, "parameters.max_new_tokens"),
    ],
)
def test_fields_in_the_wrong_place_are_not_left_out(body: dict[str, Any], instead: str) -> None:
    with pytest.raises(ServeError, match=f"write `{instead}`") as refused:
        parse_body(msgspec.json.encode({"inputs": "a", **body}))
    assert refused.value.code is ErrorCode.UNSUPPORTED_PARAMETER
    parse_body(msgspec.json.encode({"inputs": "a", "adapter_id": None}))


def test_ignored_names_of_both_levels() -> None:
    raw = b'{"inputs": "x", "tokens": 1, "parameters": {"top_n_tokens": 2}}'
    assert parse_body(raw)[2] == ("tokens", "parameters.top_n_tokens")
