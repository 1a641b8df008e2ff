"""Published clients as their users call them, each in a process, against the real server.

What each of them got is held to what the server's plainest replies say.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from client_programs import ClientPrograms
from live_server import ADAPTERS, ROOT, LiveServer

PROMPT = "<|im_start|>user\nHow do I bake bread?<|im_end|>\n<|im_start|>assistant\n"
MESSAGES = [{"role": "user", "content": "How do I bake bread?"}]
TEXTS = ["How do I bake bread?", "Yo ho ho!"]
GREEDY = {"model": "pirate", "temperature": 0, "max_tokens": 8}

# Each one's program, environment (None: the tests' own), and part of what the program says.
CLIENTS: dict[str, tuple[str, str | None, str | None]] = {
    "openai": ("use_openai.py", None, None),
    "openai 1.x": ("use_openai.py", "openai-1", None),
    "langchain": ("use_langchain.py", "frameworks", None),
    "litellm": ("use_litellm.py", "frameworks", "vllm"),
    "predibase": ("use_litellm.py", "frameworks", "predibase"),
    "llama-index": ("use_llama_index.py", "frameworks", None),
}
CHATTING = [name for name in CLIENTS if name != "predibase"]

# By what was asked: the status, and what the server calls the error.
WRONG = {
    "unknown_model": (404, "model_not_found"),
    "unknown_model_streamed": (404, "model_not_found"),
    "bad_value": (400, "invalid_request"),
    "too_long": (400, "context_length_exceeded"),
    "broken_adapter": (422, "adapter_corrupt"),
    "out_of_reach": (503, "adapter_unavailable"),
    "busy": (429, "queue_full"),
}
OPENAIS = {
    "unknown_model": "NotFoundError",
    "unknown_model_streamed": "NotFoundError",
    "bad_value": "BadRequestError",
    "too_long": "BadRequestError",
    "broken_adapter": "UnprocessableEntityError",
    "out_of_reach": "InternalServerError",
    "busy": "RateLimitError",
}
LANGCHAINS = {
    "unknown_model": "OpenAIModelNotFoundError",
    "unknown_model_streamed": "OpenAIModelNotFoundError",
    "bad_value": "OpenAIInvalidRequestError",
    "too_long": "OpenAIContextOverflowError",
    "out_of_reach": "OpenAIAPIError",
    "busy": "OpenAIRateLimitError",
}
LITELLMS = {"broken_adapter": "BadRequestError", "out_of_reach": "ServiceUnavailableError"}
CLASSES = {
    "openai": OPENAIS,
    "openai 1.x": OPENAIS,
    "llama-index": OPENAIS,
    "langchain": OPENAIS | LANGCHAINS,
    "litellm": OPENAIS | LITELLMS,
}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    """One sequence at a time: an answer of minutes that its client left, and that the engine went
    on with, would keep all others waiting.
    """
    adapters = tmp_path_factory.mktemp("adapters")
    shutil.copytree(ADAPTERS, adapters, dirs_exist_ok=True)
    shutil.copytree(ADAPTERS / "pirate", adapters / "broken")
    weights = adapters / "broken" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return ("--adapter-dir", adapters, "--max-num-sequences", "1", "--hub-offline")


@pytest.fixture
def results(request: pytest.FixtureRequest, programs: ClientPrograms) -> dict[str, Any]:
    program, environment, part = CLIENTS[request.param]
    said = programs.results(program, environment)
    return said if part is None else said[part]


@pytest.fixture(scope="module")
def answer(server: LiveServer) -> str:
    status, reply = server.post("/v1/chat/completions", {**GREEDY, "messages": MESSAGES})
    assert status == 200
    text: str = reply["choices"][0]["message"]["content"]
    assert text.startswith("Arr, matey!")
    return text


@pytest.fixture(scope="module")
def completion(server: LiveServer) -> str:
    status, reply = server.post("/v1/completions", {**GREEDY, "prompt": PROMPT})
    assert status == 200
    return str(reply["choices"][0]["text"])


@pytest.mark.parametrize("results", CHATTING, indirect=True)
def test_chats(results: dict[str, Any], answer: str) -> None:
    for way in ("chat", "stream", "async_chat", "async_stream"):
        assert results[way] == answer, way


@pytest.mark.parametrize("results", ["openai", "openai 1.x", "langchain", "litellm"], indirect=True)
def test_usage_is_read_from_both(results: dict[str, Any]) -> None:
    assert (results["tokens"], results["streamed_tokens"]) == (8, 8)


@pytest.mark.parametrize("results", ["openai", "openai 1.x", "llama-index"], indirect=True)
def test_completions(results: dict[str, Any], completion: str) -> None:
    assert (results["completion"], results["completion_stream"]) == (completion, completion)


@pytest.mark.parametrize("results", CHATTING, indirect=True)
def test_json_of_a_schema(results: dict[str, Any]) -> None:
    assert type(results["parsed"]["age"]) is int


@pytest.mark.parametrize("results", ["openai", "openai 1.x", "langchain", "litellm"], indirect=True)
def test_any_json(results: dict[str, Any]) -> None:
    assert type(results["json_object"]) is dict


@pytest.mark.parametrize("results", CHATTING, indirect=True)
def test_tools(results: dict[str, Any]) -> None:
    [[name, arguments]] = results["call"]
    assert (name, type(arguments["age"])) == ("Person", int)
    assert results["streamed_call"] == results["call"]


@pytest.mark.parametrize("results", ["openai", "openai 1.x", "litellm"], indirect=True)
def test_models(results: dict[str, Any], server: LiveServer) -> None:
    assert {"pirate", "triage", "extract"} < set(results["models"])
    assert results.get("model", "pirate") == "pirate"


@pytest.mark.parametrize("results", CHATTING, indirect=True)
def test_embeddings(results: dict[str, Any], server: LiveServer) -> None:
    status, reply = server.post("/v1/embeddings", {"model": "pirate", "input": TEXTS})
    assert status == 200
    for got, item in zip(results["embeddings"], reply["data"], strict=True):
        assert got == pytest.approx(item["embedding"], abs=1e-6)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("results", "classes"), CLASSES.items(), indirect=["results"], ids=CLASSES.keys()
)
def test_errors(results: dict[str, Any], classes: dict[str, str], wrong: str) -> None:
    status, code = WRONG[wrong]
    caught = results[wrong]
    assert (caught["class"], caught["status_code"]) == (classes[wrong], status)
    # litellm's has no code of its own, but shows the reply.
    assert code == caught["code"] or f'"code":"{code}"' in caught["text"]


@pytest.mark.parametrize("results", ["openai", "openai 1.x"], indirect=True)
def test_openai_asks_again_when_it_was_told_to(results: dict[str, Any]) -> None:
    """By then a client has left its stream, and the only place is free."""
    assert results["replies"][0] == [429, "1"]
    assert results["replies"][-1] == [200, None]
    assert results["retried"] == 2


def test_the_page_lists_the_versions_that_run_here() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text().split("## Published clients")[1]
    listed = dict(re.findall(r"^\| `([^`]+)` \| ([0-9., ]+) \|", page, flags=re.MULTILINE))
    pins = [ROOT / "constraints.txt", *sorted((ROOT / "tests" / "clients").glob("*.txt"))]
    pinned = {line for path in pins for line in path.read_text().splitlines()}
    assert len(listed) == 7
    for package, versions in listed.items():
        assert {f"{package}=={version}" for version in versions.split(", ")} <= pinned


def test_openai_1_is_that(programs: ClientPrograms) -> None:
    assert programs.results("use_openai.py", "openai-1")["version"].startswith("1.")


def test_langchain_is_told_what_to_write_where_it_sends_ids_of_its_own(
    programs: ClientPrograms,
) -> None:
    caught = programs.results("use_langchain.py", "frameworks")["foreign_ids"]
    assert (caught["class"], caught["code"]) == ("BadRequestError", "invalid_request")
    assert "check_embedding_ctx_length=False" in caught["text"]


@pytest.mark.parametrize("mode", ["JSON", "JSON_SCHEMA", "TOOLS"])
def test_instructor_reads_its_model(programs: ClientPrograms, mode: str) -> None:
    results = programs.results("use_instructor.py", "frameworks")
    assert type(results[mode]["age"]) is int
    assert results[f"async_{mode}"] == results[mode]


def test_instructor_streams_a_model_and_shows_errors(programs: ClientPrograms) -> None:
    results = programs.results("use_instructor.py", "frameworks")
    assert results["streamed"] == results["TOOLS"]
    assert results["unknown_model"]["class"] == "InstructorRetryException"
    assert "model_not_found" in results["unknown_model"]["text"]


class TestPredibase:
    """litellm's `predibase/`, which asks LoRAX's API at a deployment's address."""

    @pytest.fixture
    def results(self, programs: ClientPrograms) -> dict[str, Any]:
        results: dict[str, Any] = programs.results("use_litellm.py", "frameworks")["predibase"]
        return results

    def test_texts(self, results: dict[str, Any], completion: str) -> None:
        for way in ("chat", "stream", "async_chat", "async_stream", "adapter_id"):
            assert results[way] == completion, way

    def test_several_answers_and_json(self, results: dict[str, Any]) -> None:
        assert results["several"] == ["str", "str"]
        assert type(results["parsed"]["age"]) is int

    @pytest.mark.parametrize(
        ("wrong", "raised", "error_type"),
        [
            ("unknown_model", "BadRequestError 400", "generation"),
            ("unknown_model_streamed", "BadRequestError 400", "generation"),
            ("bad_value", "BadRequestError 400", "validation"),
            ("two_adapters", "BadRequestError 400", "validation"),
            ("out_of_reach", "ServiceUnavailableError 503", "generation"),
            ("busy", "RateLimitError 429", "overloaded"),
        ],
    )
    def test_errors(
        self, results: dict[str, Any], wrong: str, raised: str, error_type: str
    ) -> None:
        caught = results[wrong]
        assert f"{caught['class']} {caught['status_code']}" == raised
        assert f'"error_type":"{error_type}"' in caught["text"]
