"""Requests that are wrong in every way the OpenAPI document lets one think of, to a real server
with a real engine: each is answered as documented, and none leaves anything behind.

5,300 requests, of which more than 5,000 were made wrong, the same ones each time;
LORAX_FUZZ_REQUESTS=20000 sends so many others.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from documented import EVENTS, Documented, check_error
from fuzzed_requests import Fuzzed, RequestMaker, Way
from live_server import LiveServer
from lorax_serve.server.documentation import packaged_document
from openai_types import check_events, check_reply
from peft_adapters import build_adapter
from raw_http import RawReply, exchange, leave
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

NUM_REQUESTS: Final = int(os.environ.get("LORAX_FUZZ_REQUESTS", "5300"))
AT_ONCE: Final = 4
ADMIN_KEY: Final = "the-operator-s-own-key"
BASE: Final = "tiny"
ADAPTERS: Final = ("pirate", "team/other")
DOCUMENT: Final = json.loads(packaged_document())
DOCUMENTED: Final = Documented(DOCUMENT)

_NAMES: Final = ("", *ADAPTERS, "no/such", "../pirate")
HINTS: Final[dict[str, tuple[Any, ...]]] = {
    "model": _NAMES,
    "adapter_id": _NAMES,
    "ids": (["pirate"], ["pirate", "team/other"], ["pirate", "no/such"]),
    "lora_name": ("named", "pirate", "n/2"),
    "lora_path": (*ADAPTERS, "no/such", "/etc", "hf://a/b"),
    "adapter_source": ("local", "LOCAL", "hub", "s3", "pbase"),
    "source": ("local", "hub"),
    "merge_strategy": ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"),
    "role": ("system", "user", "assistant", "tool", "developer", "function"),
    "type": ("text", "json_object", "json_schema", "function", "allowed_tools"),
    "prompt": ("hi", ["a", "b"], [5, 6, 7], [[5], [6, 7]], [1, "x"], [[]]),
    "input": ("hi", ["a", "b"], [5, 6, 7], [[5], [6, 7]]),
    "inputs": ("hi", "a b c", "é"),
    "schema": ({"type": "integer"}, {"enum": ["a", "b"]}, {"type": "object"}, {"$ref": "#"}, True),
    "json": ({"type": "boolean"}, '{"type": "null"}', {"pattern": "a+", "type": "string"}),
    "regex": ("[a-c]{2}", "a|b", "(", "a{1,100000}", "\\p{Greek}"),
    "messages": (
        [{"role": "user", "content": "hi"}],
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    ),
    "tools": ([{"type": "function", "function": {"name": "f"}}],),
    "functions": ([{"name": "f", "parameters": {"type": "object"}}],),
    "tool_choice": ("required", {"type": "function", "function": {"name": "f"}}),
    "function_call": ("auto", "none", {"name": "f"}),
    "stop": ("a", ["a", "b"], [""], ["x"] * 17),
    "logit_bias": ({"5": 2}, {"999999": 1}, {"-1": 1}),
}
MAKER: Final = RequestMaker(DOCUMENT, HINTS, ADMIN_KEY)
MISFIT: Final = b"Expected `"  # a value of another type, or out of bounds: the document tells of it


@dataclass
class Site:
    server: LiveServer
    clients: ThreadPoolExecutor
    seen: Counter[int] = field(default_factory=Counter)  # replies of each status; 0: not waited for
    num_wrong: int = 0

    def send(self, fuzzed: Fuzzed) -> RawReply | None:
        """None where the client went before."""
        request = fuzzed.encoded()
        if fuzzed.way in (Way.CUT, Way.LEFT):
            num_read = fuzzed.cut if fuzzed.way is Way.LEFT else 0
            leave(self.server.url, request, num_read=num_read)
            return None
        return exchange(self.server.url, request, is_head=fuzzed.method == "HEAD")

    def answer(self) -> list[Any]:
        """What base and adapter say to a good request."""
        return [
            self.server.post(
                "/generate", {"inputs": "a", "parameters": {"adapter_id": n, "max_new_tokens": 6}}
            )
            for n in ("", *ADAPTERS)
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("fuzz")
    base = build_tiny_model("llama", root / BASE)
    write_byte_level(root / BASE, vocab_size=300)
    for name in ADAPTERS:
        build_adapter(root / "adapters" / name, base, targets=["q_proj", "v_proj"])
    options = ("--model-id", root / BASE, "--adapter-dir", root / "adapters", "--hub-offline")
    limits = ("--num-threads", "1", "--max-model-len", "64", "--admin-key", ADMIN_KEY)
    cache = ("--cache-dir", root / "cache")
    with (
        LiveServer(*options, *limits, *cache, log=root / "log") as server,
        ThreadPoolExecutor(AT_ONCE) as clients,
    ):
        site = Site(server, clients)
        answers, engine = site.answer(), server.engine_pid
        yield site
        assert site.answer() == answers
        assert server.engine_pid == engine
        _check_nothing_runs(server)
        assert site.num_wrong > 0.95 * NUM_REQUESTS
    _check_log(root / "log")
    sys.stderr.write(
        f"{site.seen.total()} requests, {site.num_wrong} of them made wrong;"
        f" replies by status: {dict(sorted(site.seen.items()))}\n"
    )


def _check_nothing_runs(server: LiveServer) -> None:
    status, raw = server.get("/adapters", Authorization=f"Bearer {ADMIN_KEY}")
    assert status == 200
    assert [a["name"] for a in json.loads(raw)["data"] if a["requests_in_flight"]] == []


def _check_log(log: Path) -> None:
    text = log.read_text()
    assert "Traceback" not in text, text
    assert "crashed" not in text, text


@pytest.mark.slow
@settings(
    max_examples=max(NUM_REQUESTS // AT_ONCE, 1),
    deadline=None,
    database=None,
    derandomize="LORAX_FUZZ_REQUESTS" not in os.environ,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(requests=st.lists(MAKER.requests(), min_size=AT_ONCE, max_size=AT_ONCE))
def test_every_request_is_answered_as_documented(site: Site, requests: list[Fuzzed]) -> None:
    """Some at once, so that wrong ones run beside good ones."""
    for fuzzed, reply in zip(requests, site.clients.map(site.send, requests), strict=True):
        if reply is not None:
            check(fuzzed, reply)
        site.seen[0 if reply is None else reply.status] += 1
        site.num_wrong += fuzzed.is_wrong


def _check_fits_openai(reply: RawReply) -> None:
    """The openai package knows every field of it, but for our documented extensions."""
    if reply.content_type == EVENTS:
        check_events(reply.body)
    else:
        check_reply(json.loads(reply.body))


def check(fuzzed: Fuzzed, reply: RawReply) -> None:
    assert reply.status != 500, reply
    if not fuzzed.is_operation:
        if reply.status >= 400 and fuzzed.method != "HEAD":
            check_error(reply)
        return
    operation = DOCUMENTED.operations[fuzzed.operation_id]
    DOCUMENTED.check(operation, reply)
    if reply.status == 200 and "OpenAI" in operation["tags"] and fuzzed.method != "HEAD":
        _check_fits_openai(reply)
    if "requestBody" not in operation or not fuzzed.body:
        return
    if reply.status == 200:
        assert DOCUMENTED.allows(operation, fuzzed.body)
    elif MISFIT in reply.body:
        assert not DOCUMENTED.allows(operation, fuzzed.body)
