"""openai 1.x against the server at the URL given: prints what each call gave, as JSON."""

import json
import sys

import openai
from openai import OpenAI
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "How do I bake bread?"}]
CHAT = {"messages": MESSAGES, "temperature": 0, "max_tokens": 16}


class Person(BaseModel):
    age: int


def error(**body: object) -> str:
    try:
        client.chat.completions.create(**{"model": "pirate", **CHAT, **body})
    except openai.APIStatusError as caught:
        return f"{type(caught).__name__} {caught.code}"
    return "none"


client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
chat = client.chat.completions.create(model="pirate", **CHAT)
chunks = list(
    client.chat.completions.create(
        model="pirate", stream=True, stream_options={"include_usage": True}, **CHAT
    )
)
parsed = client.beta.chat.completions.parse(
    model="pirate", response_format=Person, **{**CHAT, "max_tokens": 40}
)
found = {
    "version": openai.__version__,
    "models": [model.id for model in client.models.list()],
    "chat": chat.choices[0].message.content,
    "stream": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
    "streamed_tokens": chunks[-1].usage.completion_tokens,
    "tokens": chat.usage.completion_tokens,
    "parsed_age": type(parsed.choices[0].message.parsed.age).__name__,
    "unknown_model": error(model="../pirate"),
    "bad_temperature": error(temperature=9),
}
print(json.dumps(found))
