"""instructor, over OpenAI's client."""

import asyncio
from collections.abc import Iterator
from typing import Any

import instructor
from asked import FACT, URL, Person, error, tell
from openai import AsyncOpenAI, OpenAI

SERVER: dict[str, Any] = {"base_url": f"{URL}/v1", "api_key": "none", "max_retries": 0}
ASKED: dict[str, Any] = {
    "model": "extract",
    "messages": [{"role": "user", "content": FACT}],
    "response_model": Person,
    "temperature": 0,
    "max_tokens": 60,
    "max_retries": 0,
}


async def asynchronous(mode: instructor.Mode) -> Any:
    async with AsyncOpenAI(**SERVER) as client:
        patient = instructor.from_openai(client, mode=mode)
        return (await patient.chat.completions.create(**ASKED)).model_dump()


def results() -> Iterator[tuple[str, Any]]:
    for mode in (instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
        create = instructor.from_openai(OpenAI(**SERVER), mode=mode).chat.completions.create
        yield mode.name, create(**ASKED).model_dump()
        yield f"async_{mode.name}", asyncio.run(asynchronous(mode))
    partial = instructor.from_openai(OpenAI(**SERVER), mode=instructor.Mode.TOOLS)
    streamed = partial.chat.completions.create_partial(**ASKED)
    yield "streamed", [person.model_dump() for person in streamed][-1]
    yield "unknown_model", error(lambda: create(**ASKED | {"model": "../pirate"}))


tell(results())
