"""OpenAI's client: the models, an answer, a stream, structured output, a tool, and many at once.

python examples/clients/openai_chat.py [--base-url http://127.0.0.1:8080]
"""

import argparse
import asyncio
from typing import Literal

from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ORDER = (
    "Extract the order as JSON with customer, product, quantity, city.\n"
    "Can 3 fishing rods be with Emma Lindgren in Perth by Friday?"
)


class Order(BaseModel):
    customer: str
    product: str
    quantity: int
    city: str


class Weather(BaseModel):
    """Tells the weather."""

    city: Literal["Oslo", "Rome"]
    days: int


def main(base_url: str) -> None:
    client = OpenAI(base_url=f"{base_url}/v1", api_key="none")
    print("models:", [model.id for model in client.models.list()])
    options = {"messages": QUESTION, "max_tokens": 40, "temperature": 0}

    reply = client.chat.completions.create(model="pirate", **options)
    print("pirate:", reply.choices[0].message.content)

    print("stream: ", end="")
    for chunk in client.chat.completions.create(model="pirate", stream=True, **options):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    parsed = client.chat.completions.parse(
        model="extract",
        messages=[{"role": "user", "content": ORDER}],
        response_format=Order,
        max_tokens=100,
        temperature=0,
    )
    print("order:", parsed.choices[0].message.parsed)

    called = client.chat.completions.parse(
        model="",  # the base model
        messages=[{"role": "user", "content": "What is the weather in Oslo, these two days?"}],
        tools=[pydantic_function_tool(Weather)],
        tool_choice={"type": "function", "function": {"name": "Weather"}},
        max_tokens=60,
        temperature=0,
    )
    for call in called.choices[0].message.tool_calls:
        print("call:", call.function.name, call.function.parsed_arguments)

    asyncio.run(together(base_url))


async def together(base_url: str) -> None:
    """Requests for different adapters share every forward pass."""
    names = ["pirate", "triage", "extract"]
    async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none") as client:
        replies = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model=name, messages=QUESTION, max_tokens=8, temperature=0
                )
                for name in names
            )
        )
    for name, reply in zip(names, replies, strict=True):
        print(f"{name}, with the others:", reply.choices[0].message.content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:8080")
    main(parser.parse_args().base_url)
