"""What the programs ask, of the servers at the URLs given, and how they tell what they got.

A program prints one JSON object: what each of its calls gave, by name.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from openai import OpenAI
from pydantic import BaseModel

URL = sys.argv[1]
ONE_PLACE_URL = sys.argv[2]  # one open request, and the next is refused

QUESTION = "How do I bake bread?"
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
MESSAGES = [{"role": "user", "content": QUESTION}]
FACT = "Ann is 30 years old."
TEXTS = [QUESTION, "Yo ho ho!"]
LONG = 8000  # tokens; minutes of them
ENDLESS = {"max_tokens": LONG, "extra_body": {"ignore_eos": True}}
NEVER_ENDS = [1]  # a prompt; the server with one place gives it a token and then nothing


class Person(BaseModel):
    age: int


def error(call: Callable[[], object]) -> dict[str, Any]:
    """How the client puts it."""
    try:
        call()
    except Exception as caught:  # its class is what is asked for
        fields = {name: getattr(caught, name, None) for name in ("status_code", "code")}
        return {"class": type(caught).__name__, **fields, "text": str(caught)}
    return {"class": None}


@contextmanager
def taken_place() -> Iterator[Callable[[], None]]:
    """The server with one place has none left, until what this gives is called."""
    with OpenAI(base_url=f"{ONE_PLACE_URL}/v1", api_key="none", max_retries=9) as client:
        stream = client.completions.create(model="", prompt=NEVER_ENDS, stream=True, max_tokens=2)
        next(iter(stream))
        try:
            yield stream.close
        finally:
            stream.close()


def tell(results: Iterable[tuple[str, Any]]) -> None:
    print(json.dumps(dict(results)))
