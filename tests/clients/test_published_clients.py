"""Published clients that cannot share .venv, in their own, against the real server."""

from typing import Any

import pytest

from live_server import LiveServer

PROMPT = "<|im_start|>user\nHow do I bake bread?<|im_end|>\n<|im_start|>assistant\n"
MESSAGES = [{"role": "user", "content": "How do I bake bread?"}]


@pytest.fixture(scope="module")
def answer(server: LiveServer) -> str:
    body = {"model": "pirate", "messages": MESSAGES, "temperature": 0, "max_tokens": 16}
    status, reply = server.post("/v1/chat/completions", body)
    assert status == 200
    text: str = reply["choices"][0]["message"]["content"]
    assert text.startswith("Arr, matey!")
    return text


@pytest.fixture(params=["openai_1", "langchain", "litellm_vllm"])
def chatting(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a client that chats got."""
    if request.param == "openai_1":
        results: dict[str, Any] = request.getfixturevalue("openai_1")
    else:
        results = request.getfixturevalue("frameworks")[request.param]
    return results


def test_chat_and_its_stream(chatting: dict[str, Any], answer: str) -> None:
    assert chatting["chat"] == answer
    assert chatting["stream"] == answer


def test_usage_is_read_from_both(chatting: dict[str, Any]) -> None:
    assert (chatting["tokens"], chatting["streamed_tokens"]) == (16, 16)


def test_an_unknown_model_is_the_clients_own_not_found(chatting: dict[str, Any]) -> None:
    name = chatting["unknown_model"].split()[0]
    assert name in ("NotFoundError", "OpenAIModelNotFoundError")


def test_openai_1(openai_1: dict[str, Any]) -> None:
    assert openai_1["version"].startswith("1.")
    assert {"pirate", "triage", "extract"} <= set(openai_1["models"])
    assert openai_1["unknown_model"] == "NotFoundError model_not_found"
    assert openai_1["bad_temperature"] == "BadRequestError invalid_request"
    assert openai_1["parsed_age"] == "int"


def test_langchain_reads_structured_output(frameworks: dict[str, Any]) -> None:
    assert frameworks["langchain"]["parsed_age"] == "int"


def test_langchain_calls_a_tool(frameworks: dict[str, Any]) -> None:
    assert frameworks["langchain"]["call"] == ["Person", "int"]


@pytest.mark.parametrize("mode", ["JSON", "JSON_SCHEMA", "TOOLS"])
def test_instructor_reads_its_model(frameworks: dict[str, Any], mode: str) -> None:
    assert frameworks["instructor"][mode] == "int"


def test_llama_index_completes_and_streams(server: LiveServer, frameworks: dict[str, Any]) -> None:
    body = {"model": "pirate", "prompt": PROMPT, "temperature": 0, "max_tokens": 16}
    _, reply = server.post("/v1/completions", body)
    text = reply["choices"][0]["text"]
    assert text
    assert frameworks["llama_index"] == {"completion": text, "stream": text}
