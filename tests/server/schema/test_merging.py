"""`merged_adapters` as LoRAX's clients send it, and everything it must not be."""

import json
from typing import Any

import pytest

from lorax_serve.ipc.types import ErrorCode, MajoritySignMethod, MergeStrategy
from lorax_serve.server.errors import ServeError
from lorax_serve.server.request import Merge
from lorax_serve.server.schema.native import generation_request, parse_body

TOTAL, FREQUENCY = MajoritySignMethod


def parse(merged: object, **parameters: object) -> Merge:
    raw = json.dumps({"inputs": "x", "parameters": {"merged_adapters": merged, **parameters}})
    body, asked, ignored = parse_body(raw.encode())
    assert ignored == ()
    merge = generation_request(body.inputs, asked, streams=False).merge
    assert merge is not None
    return merge


def refusal(merged: object, **parameters: object) -> ServeError:
    with pytest.raises(ServeError) as caught:
        parse(merged, **parameters)
    return caught.value


@pytest.mark.parametrize("adapter_id", [None, ""])
def test_ids_alone_are_added_up(adapter_id: str | None) -> None:
    expected = Merge(("a", "b"), (1.0, 1.0), MergeStrategy.LINEAR, None, TOTAL)
    assert parse({"ids": ["a", "b"]}, adapter_id=adapter_id) == expected


def test_what_the_published_client_sends() -> None:
    """All of it, nulls and the density it insists on included."""
    sent = {
        "ids": ["a", "b"],
        "weights": [0.5, 2],
        "merge_strategy": None,
        "density": 0.0,
        "majority_sign_method": None,
    }
    assert parse(sent) == Merge(("a", "b"), (0.5, 2.0), MergeStrategy.LINEAR, None, TOTAL)


@pytest.mark.parametrize("weights", [None, []])
def test_weights_default_to_ones(weights: object) -> None:
    assert parse({"ids": ["a", "b", "c"], "weights": weights}).weights == (1.0, 1.0, 1.0)


def test_one_id_keeps_its_weight() -> None:
    assert parse({"ids": ["a"], "weights": [0.25]}).weights == (0.25,)


@pytest.mark.parametrize("strategy", MergeStrategy)
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_words_in_any_letter_case(strategy: MergeStrategy, spell: Any) -> None:
    merge = parse(
        {
            "ids": ["a"],
            "merge_strategy": spell(strategy.value),
            "density": 1,
            "majority_sign_method": spell("frequency"),
        }
    )
    assert merge.strategy is strategy
    # What a strategy does not use is left out, so that equal merges are equal.
    assert merge.density == (1.0 if strategy.prunes else None)
    assert merge.majority_sign_method is (FREQUENCY if strategy.elects_signs else TOTAL)


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "ids"),
    ({"ids": []}, "ids"),
    ({"ids": None}, "ids"),
    ({"ids": "a"}, "ids"),
    ({"ids": [""]}, "ids"),
    ({"ids": [None]}, "ids"),
    ({"ids": ["x" * 5000]}, "ids"),
    ({"ids": ["a"] * 9}, "ids"),
    ({"ids": ["a", "b"], "weights": [1]}, "weights"),
    ({"ids": ["a"], "weights": [1, 1]}, "weights"),
    ({"ids": ["a"], "weights": ["1"]}, "weights"),
    ({"ids": ["a"], "weights": [None]}, "weights"),
    ({"ids": ["a"], "weights": [1000.5]}, "weights"),
    ({"ids": ["a"], "weights": [-1000.5]}, "weights"),
    ({"ids": ["a"], "weights": [10**400]}, ""),
    ({"ids": ["a"], "merge_strategy": "slerp"}, "merge_strategy"),
    ({"ids": ["a"], "merge_strategy": ""}, "merge_strategy"),
    ({"ids": ["a"], "merge_strategy": 5}, "merge_strategy"),
    ({"ids": ["a"], "merge_strategy": "linear\0"}, "merge_strategy"),
    ({"ids": ["a"], "merge_strategy": "x" * 65}, "merge_strategy"),
    ({"ids": ["a"], "majority_sign_method": "most"}, "majority_sign_method"),
    ({"ids": ["a"], "density": 1.5}, "density"),
    ({"ids": ["a"], "density": -0.5}, "density"),
    ({"ids": ["a"], "density": "0.5"}, "density"),
    *(
        ({"ids": ["a"], "merge_strategy": strategy.value, **density}, "density")
        for strategy in MergeStrategy
        if strategy.prunes
        for density in ({}, {"density": 0}, {"density": 0.0}, {"density": None})
    ),
    ({"ids": ["a"], "weight": [2]}, ""),
]


@pytest.mark.parametrize(("merged", "field"), BAD, ids=lambda value: str(value)[:60])
def test_what_is_refused_by_name(merged: dict[str, Any], field: str) -> None:
    error = refusal(merged)
    assert error.code is ErrorCode.INVALID_REQUEST
    assert f"parameters.merged_adapters.{field}".rstrip(".") in error.message


@pytest.mark.parametrize("merged", ["a", ["a"], 5, True])
def test_only_an_object_will_do(merged: object) -> None:
    assert "parameters.merged_adapters" in refusal(merged).message


def test_an_unknown_word_is_told_the_known_ones() -> None:
    message = refusal({"ids": ["a"], "merge_strategy": "slerp"}).message
    assert "linear, ties, dare_linear, dare_ties, magnitude_prune" in message
    message = refusal({"ids": ["a"], "majority_sign_method": "slerp"}).message
    assert "total, frequency" in message


def test_not_beside_an_adapter_id() -> None:
    error = refusal({"ids": ["a"]}, adapter_id="b")
    assert error.message == (
        "`parameters.merged_adapters` cannot be given beside `parameters.adapter_id`."
    )
