"""What is built on OpenAI's client, against the server at the URL given: prints JSON."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import instructor
import litellm
from langchain_openai import ChatOpenAI
from llama_index.llms.openai_like import OpenAILike
from openai import OpenAI
from pydantic import BaseModel

URL = sys.argv[1]
QUESTION = "How do I bake bread?"
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
MESSAGES = [{"role": "user", "content": QUESTION}]


class Person(BaseModel):
    age: int


def langchain() -> Iterator[tuple[str, Any]]:
    chat = ChatOpenAI(
        model="pirate",
        base_url=f"{URL}/v1",
        api_key="none",
        temperature=0,
        max_tokens=16,
        stream_usage=True,
        max_retries=0,
    )
    reply = chat.invoke(QUESTION)
    yield "chat", reply.content
    chunks = list(chat.stream(QUESTION))
    yield "stream", "".join(chunk.content for chunk in chunks)
    yield "tokens", reply.usage_metadata["output_tokens"]
    yield "streamed_tokens", sum((c.usage_metadata or {}).get("output_tokens", 0) for c in chunks)
    structured = chat.model_copy(update={"max_tokens": 40}).with_structured_output(Person)
    yield "parsed_age", type(structured.invoke(QUESTION).age).__name__
    forced = chat.model_copy(update={"max_tokens": 60}).bind_tools([Person], tool_choice="Person")
    (call,) = forced.invoke("a").tool_calls
    yield "call", [call["name"], type(call["args"].get("age")).__name__]
    yield "unknown_model", error(lambda: chat.model_copy(update={"model_name": "../x"}).invoke("a"))


def litellm_vllm() -> Iterator[tuple[str, Any]]:
    options = {"api_base": f"{URL}/v1", "messages": MESSAGES, "temperature": 0, "max_tokens": 16}
    reply = litellm.completion("hosted_vllm/pirate", **options)
    yield "chat", reply.choices[0].message.content
    chunks = list(
        litellm.completion(
            "hosted_vllm/pirate", stream=True, stream_options={"include_usage": True}, **options
        )
    )
    yield "stream", "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    yield "tokens", reply.usage.completion_tokens
    yield "streamed_tokens", chunks[-1].usage.completion_tokens
    yield "unknown_model", error(lambda: litellm.completion("hosted_vllm/../x", **options))


def with_instructor() -> Iterator[tuple[str, Any]]:
    for mode in (instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
        client = instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key="none"), mode=mode)
        person = client.chat.completions.create(
            model="extract",
            messages=[{"role": "user", "content": "Ann is 30 years old."}],
            response_model=Person,
            temperature=0,
            max_tokens=60,
            max_retries=0,
        )
        yield mode.name, type(person.age).__name__


def llama_index() -> Iterator[tuple[str, Any]]:
    llm = OpenAILike(
        model="pirate", api_base=f"{URL}/v1", api_key="none", temperature=0, max_tokens=16
    )
    yield "completion", llm.complete(PROMPT).text
    yield "stream", "".join(part.delta or "" for part in llm.stream_complete(PROMPT))


def error(call: Any) -> str:
    try:
        call()
    except Exception as caught:  # its class is what is asked for
        return type(caught).__name__
    return "none"


litellm.suppress_debug_info = True
CLIENTS = {
    "langchain": langchain,
    "litellm_vllm": litellm_vllm,
    "instructor": with_instructor,
    "llama_index": llama_index,
}
print(json.dumps({name: dict(results()) for name, results in CLIENTS.items()}))
