"""Whatever is sent: one sentence with a 4xx in the shape of its API, and the server serves on."""

import gzip
import io
import json
from typing import Any

import pytest
from aiohttp import ClientResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wire import MODEL_ID, Wire

JSON = {"Content-Type": "application/json"}
DEPLOYED = f"/acme/deployments/v2/llms/{MODEL_ID}/generate"
NATIVE = ("/", "/generate", "/generate_stream", "/invocations", DEPLOYED)
OPENAI = ("/v1/chat/completions", "/v1/completions")
EVERY = (*NATIVE, *OPENAI, "/embed", "/v1/embeddings")
DEEP = b"[" * 100_000 + b"]" * 100_000


def openai_body(path: str, **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "hi"}]
    prompt = {"messages": messages} if "chat" in path else {"prompt": "hi"}
    return {"model": "", **prompt, **fields}


async def post(wire: Wire, path: str, body: object) -> ClientResponse:
    """Any body, of any size: aiohttp's client warns about large ones that are no file."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await wire.client.post(path, data=io.BytesIO(raw), headers=JSON)


async def refused(reply: ClientResponse, status: int) -> tuple[str, str]:
    """The error's sentence and its kind, having checked the body's shape and size."""
    raw = await reply.read()
    assert reply.status == status, raw
    assert reply.content_type == "application/json"
    assert len(raw) <= 1024
    body = json.loads(raw)
    if reply.url.path.startswith("/v1/"):
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}
        return body["error"]["message"], body["error"]["code"]
    assert body.keys() == {"error", "error_type"}
    return body["error"], body["error_type"]


async def serves_on(wire: Wire) -> None:
    """After what it refused: nothing reached the engine or the log, and the next request works."""
    assert wire.engine.requests == wire.engine.pooled == []
    assert wire.logs == []
    wire.will_say("ok")
    reply = await wire.client.post("/generate", json={"inputs": "hi"})
    assert await reply.json() == {"generated_text": "ok"}


MALFORMED = [
    b"",
    b"{",
    b"nonsense",
    b'{"inputs": "x"} trailing',
    b'{"inputs": "x", "parameters": {"temperature": NaN}}',
    b'{"inputs": "x", "parameters": {"temperature": Infinity}}',
    b'{"model": "", "prompt": "x", "temperature": -Infinity}',
    b'{"inputs": "\xff"}',
    b'{"inputs": "\\ud800"}',
    b'{"inputs": ' + DEEP + b"}",
    b'{"unknown": ' + DEEP + b"}",
    b'{"inputs": "x", "parameters": ' + DEEP + b"}",
    DEEP,
]


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("raw", MALFORMED, ids=lambda raw: raw[:40])
async def test_malformed_json(wire: Wire, path: str, raw: bytes) -> None:
    status = 400
    if raw == DEEP:
        return await test_not_an_object(wire, path, raw)
    reply = await wire.client.post(path, data=raw, headers=JSON)
    await refused(reply, status)
    await serves_on(wire)


async def test_an_unknown_model_is_said_in_the_words_of_each_api(wire: Wire) -> None:
    reply = await wire.client.post("/v1/completions", json=openai_body("", model="gpt-4"))
    error = (await reply.json())["error"]
    assert error["message"] == "Model 'gpt-4' does not exist."
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    body = {"inputs": "hi", "parameters": {"adapter_id": "gpt-4"}}
    reply = await wire.client.post("/generate", json=body)
    assert (await reply.json())["error"] == "Adapter 'gpt-4' does not exist."


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("raw", [b"[]", b"7", b'"text"', b"null"])
async def test_not_an_object(wire: Wire, path: str, raw: bytes) -> None:
    reply = await wire.client.post(path, data=raw, headers=JSON)
    await refused(reply, 400 if path.startswith("/v1/") else 422)
    await serves_on(wire)


# Other servers' names for constraints: dropped, each would silently change the answer.
CONSTRAINTS: list[tuple[str, object]] = [
    ("ebnf", "root ::= x"),
    ("structural_tag", {"structures": []}),
    ("choice", ["a", "b"]),
    ("format", "json"),
    ("json", {"type": "object"}),
    ("pattern", "a+"),
    ("lark", "start: x"),
    ("outlines", {"regex": "a"}),
]

NATIVE_PARAMETERS: list[tuple[str, object]] = [
    ("temperature", -0.1),
    ("temperature", 101),
    ("temperature", "1"),
    ("temperature", True),
    ("top_k", 0),
    ("top_k", 2**31),
    ("top_k", 1.5),
    ("top_p", 0),
    ("top_p", 1.01),
    ("typical_p", 0),
    ("typical_p", 1.01),
    ("repetition_penalty", 0),
    ("repetition_penalty", -1),
    ("frequency_penalty", 2.01),
    ("presence_penalty", -2.01),
    ("seed", -1),
    ("seed", 2**64),
    ("seed", 10**30),
    ("seed", "7"),
    ("max_new_tokens", 0),
    ("max_new_tokens", -1),
    ("max_new_tokens", 2**40),
    ("max_new_tokens", 256),
    ("truncate", 0),
    ("truncate", 256),
    ("stop", [""]),
    ("stop", ["x"] * 17),
    ("stop", ["x" * 257]),
    ("stop", ["ö" * 129]),
    ("stop", [1]),
    ("stop", {"x": 1}),
    ("do_sample", "yes"),
    ("details", 1),
    ("return_k_alternatives", 0),
    ("return_k_alternatives", 21),
    ("adapter_id", 5),
    ("adapter_id", "x" * 5000),
    ("watermark", True),
    ("best_of", 2),
    ("best_of", 17),
    ("merged_adapters", []),
    ("merged_adapters", {"ids": []}),
    ("merged_adapters", {"ids": ["alice"] * 9}),
    ("merged_adapters", {"ids": ["alice", "team/ops"], "weights": [1]}),
    ("merged_adapters", {"ids": ["alice"], "merge_strategy": "secret"}),
    ("merged_adapters", {"ids": ["alice"], "merge_strategy": "ties", "density": 0}),
    ("merged_adapters", {"ids": ["alice"], "majority_sign_method": "secret"}),
    ("merged_adapters", {"ids": ["alice", "tiny/base-model"]}),
    ("response_format", "json_object"),
    ("response_format", {}),
    ("response_format", {"type": "yaml"}),
    ("response_format", {"type": 5}),
    ("response_format", {"type": "json_object", "shema": {}}),
    ("response_format", {"type": "text", "schema": {}}),
    ("response_format", {"type": "json_schema", "schema": {}, "json_schema": {"schema": {}}}),
    ("response_format", {"type": "json_object", "schema": {"type": "strnig"}}),
    ("response_format", {"type": "json_object", "schema": [1]}),
    ("response_format", {"type": "json_object", "schema": {"enum": ["x" * 300_000]}}),
    ("guided_json", {}),
    ("grammar", {"type": "json", "value": {}}),
    ("response_fromat", {"type": "json_object"}),
    ("responseFormat", {"type": "json_object"}),
    ("json_schema", {}),
    ("structured_outputs", {"json": {}}),
    ("my_regex", "a*"),
    *CONSTRAINTS,
    ("bad_words", ["x"]),
    ("allowed_token_ids", [1]),
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("logit_bias", {"1": 5}),
    ("stop_token_ids", [1]),
    ("min_tokens", 5),
    ("min_p", 0.1),
    ("n", 2),
    ("use_beam_search", True),
]


@pytest.mark.parametrize(
    ("name", "value"), NATIVE_PARAMETERS, ids=lambda value: str(value)[:40].replace("\0", "")
)
async def test_native_parameters(wire: Wire, name: str, value: object) -> None:
    body = {"inputs": "hi", "parameters": {name: value}}
    for path in ("/generate", "/generate_stream"):
        sentence, kind = await refused(await wire.client.post(path, json=body), 422)
        assert kind == "validation"
        assert "secret" not in sentence
    await serves_on(wire)


OPENAI_FIELDS: list[tuple[str, object]] = [
    ("temperature", -1),
    ("temperature", 2.1),
    ("top_p", 0),
    ("top_p", 1.1),
    ("top_k", -2),
    ("min_p", 1.1),
    ("presence_penalty", 3),
    ("frequency_penalty", -3),
    ("repetition_penalty", 0),
    ("seed", 2**63),
    ("max_tokens", 0),
    ("max_tokens", 256),
    ("stop", 5),
    ("stop", ""),
    ("stop", ["x"] * 17),
    ("stop_token_ids", [384]),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", [1] * 65),
    ("logit_bias", {"384": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"²": 1}),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"1": 101}),
    ("logit_bias", {str(i): 1 for i in range(1025)}),
    ("stream_options", {"include_usage": True}),
    ("model", 5),
    ("model", "x" * 5000),
    ("cache_salt", "x" * 129),
    ("response_format", {"type": "yaml"}),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {}, "extra": 1}}),
    ("structured_outputs", {}),
    ("structured_outputs", {"json": {}, "regex": "a"}),
    ("structured_outputs", {"grammar": "root ::= x"}),
    ("structured_outputs", {"choice": []}),
    ("structured_outputs", {"regex": "("}),
    ("structured_outputs", {"jason": {}}),
    ("guided_json", "{not json"),
    ("guided_grammar", "root ::= x"),
    ("guided_jsn", {}),
    ("response_fromat", {"type": "json_object"}),
    ("n", 0),
    ("n", 17),
    ("n", 5_000_000),
    ("best_of", 0),
    ("best_of", 21),
    ("echo", "yes"),
    ("decoder_input_details", True),
    ("suffix", "end"),
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", "auto"),
    ("functions", [{"name": "f"}]),
    ("audio", {"voice": "x"}),
    ("modalities", ["text", "audio"]),
    ("bad_words", ["x"]),
    ("allowed_token_ids", [1]),
    ("prompt_logprobs", 1),
    ("chat_template", "{{ 'a' * 2000000000 }}"),
    ("chat_template_kwargs", {"tokenize": True}),
    ("use_beam_search", True),
    ("merged_adapters", {"ids": ["alice"]}),
    ("continue_final_message", "yes"),
    *CONSTRAINTS,
]


@pytest.mark.parametrize("path", OPENAI)
@pytest.mark.parametrize(("name", "value"), OPENAI_FIELDS, ids=lambda value: str(value)[:40])
async def test_openai_fields(wire: Wire, path: str, name: str, value: object) -> None:
    reply = await wire.client.post(path, json=openai_body(path, **{name: value}))
    sentence, code = await refused(reply, 400)
    assert code in {
        "invalid_request",
        "unsupported_parameter",
        "context_length_exceeded",
        "invalid_json_schema",
        "invalid_regex",
        "invalid_grammar",
    }
    assert "secret" not in sentence
    await serves_on(wire)


OUTSIDE_PARAMETERS: list[tuple[str, object]] = [
    ("tools", [{}]),
    ("logit_bias", {"1": 5}),
    ("response_format", {}),
    ("merged_adapters", {"ids": ["alice"]}),
]


@pytest.mark.parametrize(("name", "value"), CONSTRAINTS + OUTSIDE_PARAMETERS)
async def test_constraints_beside_the_native_parameters(
    wire: Wire, name: str, value: object
) -> None:
    for path in NATIVE:
        reply = await wire.client.post(path, json={"inputs": "hi", name: value})
        sentence, kind = await refused(reply, 422)
        assert kind == "validation"
        assert f"`{name}` is not supported" in sentence
        assert "did you mean" not in sentence
    await serves_on(wire)


async def test_unserved_fields_are_refused_by_name(wire: Wire) -> None:
    reply = await wire.client.post(OPENAI[0], json=openai_body(OPENAI[0], bad_words=["x"]))
    error = (await reply.json())["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "bad_words")
    assert "`bad_words`" in error["message"]


CHAT_ONLY: list[dict[str, object]] = [
    {"messages": []},
    {"messages": "hi"},
    {"messages": [{"content": "no role"}]},
    {"messages": [{"role": "wizard", "content": "x"}]},
    {"messages": [{"role": "user", "tool_calls": [{"function": {"name": "f"}}]}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"role": "user", "content": "x"}] * 4097},
    {"logprobs": 3},
    {"top_logprobs": 3},
    {"logprobs": True, "top_logprobs": 21},
    {"max_tokens": 3, "max_completion_tokens": 4},
]


@pytest.mark.parametrize("fields", CHAT_ONLY, ids=lambda fields: str(fields)[:60])
async def test_chat_bodies(wire: Wire, fields: dict[str, object]) -> None:
    body = openai_body("chat") | fields
    await refused(await wire.client.post("/v1/chat/completions", json=body), 400)
    await serves_on(wire)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        [],
        [""],
        [[]],
        [[1], []],
        ["a", ""],
        ["a"] * 129,
        [1, "a"],
        ["a", [1, "b"]],
        [384],
        [-1],
        [True],
        5,
        {},
    ],
)
async def test_completion_prompts(wire: Wire, prompt: object) -> None:
    body = {"model": "", "prompt": prompt}
    await refused(await wire.client.post("/v1/completions", json=body), 400)
    await serves_on(wire)


@pytest.mark.parametrize("body", [{"prompt": "x"}, {"model": ""}, {"model": "", "logprobs": 21}])
async def test_completion_bodies(wire: Wire, body: dict[str, object]) -> None:
    await refused(await wire.client.post("/v1/completions", json=body), 400)


@pytest.mark.parametrize("body", [{}, {"inputs": ""}, {"inputs": None}, {"inputs": ["a"]}])
async def test_native_inputs(wire: Wire, body: dict[str, object]) -> None:
    for path in NATIVE:
        assert (await refused(await wire.client.post(path, json=body), 422))[1] == "validation"
    await serves_on(wire)


TRAVERSALS = [
    "/etc",
    "../adapters/alice",
    "alice/../alice",
    "..",
    ".",
    "alice/",
    "//alice",
    "%2e%2e/alice",
    "alice\0",
    "a\\b",
    "nobody",
    "не существует",
    "http://169.254.169.254/",
    "alice\r\nx-injected: 1",
    "x" * 600,
]


@pytest.mark.parametrize("adapter_id", TRAVERSALS, ids=lambda value: repr(value)[:40])
async def test_adapters_that_do_not_exist(wire: Wire, adapter_id: str) -> None:
    body = {"inputs": "hi", "parameters": {"adapter_id": adapter_id}}
    for path in NATIVE:
        sentence, kind = await refused(await wire.client.post(path, json=body), 424)
        assert kind == "generation"
        assert sentence.startswith("Adapter '")
    for path in OPENAI:
        reply = await wire.client.post(path, json=openai_body(path, model=adapter_id))
        assert (await refused(reply, 404))[1] == "model_not_found"
        assert (await reply.json())["error"]["param"] == "model"
    await serves_on(wire)


@pytest.mark.parametrize("source", ["hub", "s3", "pbase", "HUB", "nonsense"])
async def test_adapter_sources(wire: Wire, source: str) -> None:
    parameters = {"adapter_id": "alice", "adapter_source": source}
    body: dict[str, object] = {"inputs": "hi", "parameters": parameters}
    sentence, kind = await refused(await wire.client.post("/generate", json=body), 424)
    assert kind == "generation"
    assert "`adapter_source`" in sentence
    for path in OPENAI:
        body = openai_body(path, model="alice", adapter_source=source)
        assert (await refused(await wire.client.post(path, json=body), 400))[1] == (
            "unsupported_parameter"
        )


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "deflate, gzip"},
    ],
    ids=str,
)
async def test_other_types_and_encodings(wire: Wire, path: str, headers: dict[str, str]) -> None:
    raw = gzip.compress(b"{}") if "Content-Encoding" in headers else b"{}"
    reply = await wire.client.post(
        path, data=raw, headers=headers, skip_auto_headers=["Content-Type"]
    )
    sentence, _ = await refused(reply, 415)
    assert ("Content-Encoding" in sentence) == ("Content-Encoding" in headers)
    assert ("Content-Type" in sentence) == ("Content-Encoding" not in headers)
    await serves_on(wire)


async def test_a_gzip_bomb_is_refused(wire: Wire) -> None:
    bomb = gzip.compress(b" " * 64 * 2**20, compresslevel=1)
    headers = {**JSON, "Content-Encoding": "gzip"}
    await refused(await wire.client.post("/generate", data=bomb, headers=headers), 415)


@pytest.mark.parametrize("path", EVERY)
async def test_a_body_over_the_limit(wire: Wire, path: str) -> None:
    raw = b'{"inputs": "' + b"x" * 8 * 2**20 + b'"}'
    await refused(await post(wire, path, raw), 413)


@pytest.mark.parametrize("path", EVERY)
async def test_a_prompt_of_eight_megabytes(wire: Wire, path: str) -> None:
    text = "x" * (8 * 2**20 - 200)
    fields: dict[str, object] = {"inputs": text}
    if path == "/v1/completions":
        fields = {"model": "", "prompt": text}
    elif path == "/v1/chat/completions":
        fields = {"model": "", "messages": [{"role": "user", "content": text}]}
    elif path == "/v1/embeddings":
        fields = {"model": "", "input": text}
    reply = await post(wire, path, fields)
    await refused(reply, 400 if path.startswith("/v1/") else 422)
    await serves_on(wire)


BULK: list[dict[str, Any]] = [
    {f"field{i}": i for i in range(70)},
    {f"field{i}": i for i in range(50_000)},
    {"metadatum": "x" * 4_000_000},
    {"stop": ["x"] * 500_000},
    {"logit_bias": {str(i): 1 for i in range(50_000)}},
]


@pytest.mark.parametrize("bulk", BULK, ids=["fields", "many fields", "one field", "stop", "bias"])
async def test_bulk_outside_the_prompt(wire: Wire, bulk: dict[str, Any]) -> None:
    await refused(await post(wire, "/generate", {"inputs": "hi", **bulk}), 422)
    await refused(await post(wire, "/generate", {"inputs": "hi", "parameters": bulk}), 422)
    await refused(await post(wire, "/v1/completions", openai_body("", **bulk)), 400)
    await serves_on(wire)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/embeddings", 405, "method_not_allowed"),
        ("GET", "/embed", 405, "method_not_allowed"),
        ("GET", "/generate", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("PUT", "/", 405, "method_not_allowed"),
    ],
)
async def test_addresses(wire: Wire, method: str, path: str, status: int, kind: str) -> None:
    reply = await wire.client.request(method, path)
    assert (await refused(reply, status))[1] == kind
    assert ("Allow" in reply.headers) == (status == 405)


async def test_ignored_fields_are_reported(wire: Wire) -> None:
    wire.will_say("x")
    body = openai_body("", user="me", metadata={}, store=True, verbosity="low", ünk=1)
    reply = await wire.client.post("/v1/completions", json=body)
    assert reply.status == 200
    assert reply.headers["x-ignored-params"] == "verbosity, %C3%BCnk"


async def test_values_that_ask_for_nothing_are_accepted(wire: Wire) -> None:
    wire.will_say("x")
    fields = {"n": 1, "echo": False, "tools": [], "tool_choice": "none", "suffix": "", "best_of": 1}
    nulls = dict.fromkeys(("audio", "functions", "stop", "logit_bias", "seed", "stream", "top_p"))
    for path in OPENAI:
        reply = await wire.client.post(path, json=openai_body(path, **fields, **nulls))
        assert reply.status == 200, await reply.text()
        assert "x-ignored-params" not in reply.headers


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELD_NAMES = sorted(
    {name for name, _ in NATIVE_PARAMETERS} | {name for name, _ in OPENAI_FIELDS} | {"prompt", "x"}
)


@settings(
    derandomize=True,
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=st.sampled_from(FIELD_NAMES), value=JSON_VALUES)
async def test_any_value_of_any_field(wire: Wire, name: str, value: object) -> None:
    """Served or refused, never a failure of ours."""
    wire.will_say("x")
    native = {"inputs": "hi", "parameters": {name: value}}
    replies = [await wire.client.post("/generate", json=native)]
    for path in OPENAI:
        replies.append(await wire.client.post(path, json=openai_body(path) | {name: value}))
    replies.append(await wire.client.post("/embed", json=native))
    for field in (name, "input"):
        body = {"model": "", "input": "hi"} | {field: value}
        replies.append(await wire.client.post("/v1/embeddings", json=body))
    for reply in replies:
        assert reply.status in (200, 400, 404, 422), await reply.text()
