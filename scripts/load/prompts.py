"""Prompts, as the fields of a request's body that hold them."""

import json
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

from load.case import Case, Endpoint

# Words that byte-pair vocabularies made from English text hold whole, a blank before them included.
COMMON = (
    "the of and to in is you that it he was for on are as with his they at be this have from or "
    "one had by word but not what all were we when your can said there use an each which she do "
    "how their if will up other about out many then them these so some her would make like him "
    "into time has look two more write go see number no way could people my than first water been "
    "call who oil its now find long down day did get come made may part over new sound take only "
    "little work know place year live me back give most very after thing our just name good man "
    "think say great where help through much before line right too mean old any same tell boy "
    "follow came want show also around form three small set put end does another well large must "
    "big even such because turn here why ask went men read need land home us move try kind hand"
)
WORDS = COMMON.split()

MIN_TOKEN_ID = 100  # vocabularies begin or end with their special tokens


def prompts(case: Case, rng: Random) -> Iterator[dict[str, Any]]:
    """Without end: the file's in order and over again, or random ones.

    `max_tokens` is among the fields where the file says it.
    """
    if case.prompts is not None:
        yield from cycle(read_prompts(case.prompts, case.endpoint))
    assert case.input_len is not None
    while True:
        if case.max_token_id is not None:
            ids = range(MIN_TOKEN_ID, case.max_token_id + 1)
            yield {"prompt": rng.choices(ids, k=case.input_len)}
        else:
            yield _fields(" ".join(rng.choices(WORDS, k=case.input_len)), case.endpoint)


def read_prompts(path: Path, endpoint: Endpoint) -> list[dict[str, Any]]:
    """JSON lines: {"prompt": text or token ids} or {"messages": [...]}, and "max_tokens" or not.

    A text is a user's message where the endpoint is chat. Exits on a line that is none of these.
    """
    lines = enumerate(path.read_text().splitlines(), 1)
    found = [_read(line, f"{path}, line {n}", endpoint) for n, line in lines if line.strip()]
    if not found:
        sys.exit(f"{path} holds no prompt")
    return found


def _read(line: str, where: str, endpoint: Endpoint) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        sys.exit(f"{where}: {error}")
    if not isinstance(entry, dict) or entry.keys() - {"prompt", "messages", "max_tokens"}:
        sys.exit(f"{where}: expected an object of `prompt` or `messages`, and `max_tokens`")
    if endpoint == "chat" and isinstance(entry.get("prompt"), str):
        entry |= _fields(entry.pop("prompt"), endpoint)
    needed, other = ("messages", "prompt") if endpoint == "chat" else ("prompt", "messages")
    if needed not in entry or other in entry:
        sys.exit(f"{where}: the {endpoint} endpoint takes `{needed}`")
    return entry


def _fields(text: str, endpoint: Endpoint) -> dict[str, Any]:
    if endpoint == "chat":
        return {"messages": [{"role": "user", "content": text}]}
    return {"prompt": text}
