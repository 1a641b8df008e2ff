"""Forced calls of tools from the real model, through the published client."""

import json
from typing import Literal

import openai
from openai import OpenAI
from pydantic import BaseModel

from live_server import LiveServer


class Weather(BaseModel):
    """Tells the weather."""

    city: Literal["Rome", "Oslo"]
    days: int


class Clock(BaseModel):
    """Tells the time."""

    zone: str


MESSAGES = [{"role": "user", "content": "What will the weather be in Oslo, these two days?"}]


def test_forced_calls_have_the_arguments_that_were_asked_for(server: LiveServer) -> None:
    weather = openai.pydantic_function_tool(Weather)
    clock = openai.pydantic_function_tool(Clock)
    named = {"type": "function", "function": {"name": "Weather"}}
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        options = {"model": "", "messages": MESSAGES, "temperature": 0, "max_tokens": 60}
        for choice, tools in ((named, [clock, weather]), ("required", [weather])):
            reply = client.chat.completions.parse(
                **options, tools=tools, tool_choice=choice, parallel_tool_calls=False
            )
            (call,) = reply.choices[0].message.tool_calls
            assert isinstance(call.function.parsed_arguments, Weather)
        chunks = client.chat.completions.create(
            **options, tools=[weather], tool_choice=named, stream=True
        )
        parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
        assert [part.function.name for part in parts if part.function.name] == ["Weather"]
        Weather(**json.loads("".join(part.function.arguments for part in parts)))
