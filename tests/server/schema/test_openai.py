import json
from typing import Any

import pytest

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.request import (
    MAX_SEED,
    Choice,
    GenerationRequest,
    JsonObject,
    JsonSchema,
    Regex,
)
from lorax_serve.server.schema.chat import CHAT, chat_request
from lorax_serve.server.schema.messages import template_messages
from lorax_serve.server.schema.openai import COMPLETION, completion_request

SCHEMA = {"type": "integer"}


def chat(**fields: object) -> GenerationRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return chat_request(CHAT.parse(json.dumps(body).encode())[0], "rendered")


def completion(**fields: object) -> GenerationRequest:
    body = {"model": "m", "prompt": "hi", **fields}
    return completion_request(COMPLETION.parse(json.dumps(body).encode())[0])


def messages(*turns: dict[str, object]) -> list[dict[str, object]]:
    body = {"model": "m", "messages": turns}
    return template_messages(CHAT.parse(json.dumps(body).encode())[0].messages)


def test_a_chat_prompt_is_the_rendered_template_alone() -> None:
    request = chat()
    assert (request.prompt, request.add_special_tokens) == ("rendered", False)
    assert (completion().prompt, completion().add_special_tokens) == ("hi", True)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 6, "max_completion_tokens": 6}, 6),
        ({"max_tokens": None, "max_completion_tokens": 7}, 7),
    ],
)
def test_both_names_of_the_token_limit(fields: dict[str, object], limit: int | None) -> None:
    assert chat(**fields).max_new_tokens == limit


@pytest.mark.parametrize("asked", [chat, completion])
def test_sampling(asked: Any) -> None:
    sampling = asked(
        temperature=0.5,
        top_p=0.9,
        top_k=-1,
        min_p=0.1,
        typical_p=0.8,
        repetition_penalty=1.1,
        presence_penalty=1,
        frequency_penalty=-1,
        seed=-1,
        logit_bias={"5": 100, "007": -1.5},
    ).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 0)
    assert (sampling.min_p, sampling.typical_p, sampling.repetition_penalty) == (0.1, 0.8, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.0, -1.0)
    assert sampling.seed == MAX_SEED
    assert sampling.logit_bias == ((5, 100.0), (7, -1.5))
    assert sampling.num_logprobs is None


@pytest.mark.parametrize(
    ("fields", "num_logprobs"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
    ],
)
def test_chat_logprobs(fields: dict[str, object], num_logprobs: int | None) -> None:
    assert chat(**fields).sampling.num_logprobs == num_logprobs


@pytest.mark.parametrize(("asked", "unless_given"), [(chat, False), (completion, True)])
def test_special_tokens_of_the_prompt(asked: Any, unless_given: bool) -> None:
    assert asked().add_special_tokens is unless_given
    for given in (True, False):
        assert asked(add_special_tokens=given).add_special_tokens is given


@pytest.mark.parametrize("asked", [chat, completion])
def test_truncation(asked: Any) -> None:
    assert asked().truncate is None
    assert asked(truncate_prompt_tokens=3).truncate == 3
    for wrong in (0, -1):
        with pytest.raises(ServeError) as caught:
            asked(truncate_prompt_tokens=wrong)
        assert caught.value.param == "truncate_prompt_tokens"


def test_a_prompt_that_is_repeated_is_not_truncated() -> None:
    with pytest.raises(ServeError) as caught:
        completion(truncate_prompt_tokens=3, echo=True)
    assert caught.value.param == "truncate_prompt_tokens"


@pytest.mark.parametrize(
    ("asked", "field", "meant"),
    [
        (chat, "adapter_id", "model"),
        (completion, "adapter_id", "model"),
        (chat, "max_new_tokens", "max_tokens"),
        (completion, "max_new_tokens", "max_tokens"),
        (completion, "max_completion_tokens", "max_tokens"),
    ],
)
def test_loraxs_names_are_told_by_what_to_write(asked: Any, field: str, meant: str) -> None:
    with pytest.raises(ServeError, match=f"write `{meant}`") as caught:
        asked(**{field: 5})
    assert (caught.value.code, caught.value.param) == (ErrorCode.UNSUPPORTED_PARAMETER, field)


@pytest.mark.parametrize("num_logprobs", [None, 0, 20])
def test_completion_logprobs(num_logprobs: int | None) -> None:
    assert completion(logprobs=num_logprobs).sampling.num_logprobs == num_logprobs


@pytest.mark.parametrize("asked", [chat, completion])
def test_stopping(asked: Any) -> None:
    assert asked(stop=None).stop_strings == ()
    assert asked(stop="x").stop_strings == ("x",)
    request = asked(
        stop=["x", "y"],
        stop_token_ids=[1, 2],
        ignore_eos=True,
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        cache_salt="s",
    )
    assert request.stop_strings == ("x", "y")
    assert request.stop_token_ids == (1, 2)
    assert request.ignore_eos
    assert request.keep_stop_string
    assert not request.skip_special_tokens
    assert request.cache_salt == "s"
    assert asked(ignore_eos_token=True).ignore_eos


@pytest.mark.parametrize("asked", [chat, completion])
@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, Regex("a")),
        ({"response_format": {"type": "json_object"}}, JsonObject()),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, JsonSchema(SCHEMA)),
        ({"structured_outputs": {"choice": ["a"]}}, Choice(("a",))),
        ({"guided_json": SCHEMA}, JsonSchema(SCHEMA)),
        ({"guided_choice": ["a", "b"]}, Choice(("a", "b"))),
    ],
)
def test_constraints(asked: Any, fields: dict[str, object], constraint: object) -> None:
    assert asked(**fields).constraint == constraint


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}, "guided_json": SCHEMA},
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        {"guided_json": SCHEMA, "guided_regex": "a"},
    ],
)
def test_several_constraints_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ServeError) as caught:
        chat(**fields)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_messages_as_templates_read_them() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    rendered = messages(
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": None},
        {"role": "assistant", "content": "x", "tool_calls": []},
    )
    assert rendered == [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": "ab", "name": "ann"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "x"},
    ]
