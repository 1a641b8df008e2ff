"""Two frontends and the real engine: one server, whichever of them answers."""

import http.client
import json
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

import processes
from hub_stand_in import HubStandIn, Repository, hub_in_thread
from live_server import LiveServer
from peft_adapters import build_adapter
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

ADAPTERS = ("first", "second")
FILES = ("adapter_config.json", "adapter_model.safetensors")
PROMPTS = ("abc", "a longer prompt", "1, 2, 3")
NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Site:
    server: LiveServer
    alone: LiveServer  # the same with one frontend

    @property
    def frontends(self) -> list[int]:
        return processes.frontends(self.server.process.pid)

    def of_each(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = NONE
    ) -> list[bytes]:
        """What each frontend answers."""
        first, second = self.frontends
        return [self._of_one(other, method, path, body, headers) for other in (second, first)]

    def _of_one(
        self, other: int, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> bytes:
        """With `other` paused while the connection is made, and not while it is answered: whoever
        answers may have to ask it.
        """
        address = urlsplit(self.server.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
        with processes.paused(other):
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b""
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json", **headers})
        reply = connection.getresponse()
        said = reply.read()
        connection.close()
        assert reply.status == 200, said
        return said

    def metrics(self) -> dict[str, float]:
        """The counters, as both tell them."""
        told = [_counters(text.decode()) for text in self.of_each("GET", "/metrics")]
        assert told[0] == told[1]
        return told[0]

    def num_loads(self) -> float:
        return sum(n for name, n in self.metrics().items() if "adapter_loads_total" in name)


def _counters(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(\S+_total\S*) (\S+)$", text, re.M)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("frontends")
    base = build_tiny_model("llama", root / "model")
    write_byte_level(root / "model", vocab_size=300)
    for seed, name in enumerate(ADAPTERS):
        build_adapter(root / "adapters" / name, base, targets=["q_proj", "v_proj"], seed=seed)
    content = {file: (root / "adapters" / "first" / file).read_bytes() for file in FILES}
    options = ("--model-id", root / "model", "--adapter-dir", root / "adapters")
    cache = ("--cache-dir", root / "cache", "--num-threads", "1")
    with (
        hub_in_thread(lambda: HubStandIn({"org/first": Repository([content])})) as hub,
        LiveServer(
            *(*options, *cache, "--hub-endpoint", hub.url, "--frontends", "2"), log=root / "log"
        ) as server,
        LiveServer(*options, *cache, log=root / "alone") as alone,
    ):
        yield Site(server, alone)
        children = processes.children(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(processes.PATIENCE_SECONDS) == 0
        assert processes.wait_gone(*children)
    text = (root / "log").read_text()
    assert "Traceback" not in text, text


def completion(prompt: str, adapter: str, **more: object) -> dict[str, object]:
    body = {"model": adapter, "prompt": prompt, "max_tokens": 12, "temperature": 0}
    return {**body, "ignore_eos": True, **more}


def test_both_say_what_one_alone_says(site: Site) -> None:
    for adapter in ("", *ADAPTERS):
        for prompt in PROMPTS:
            body = completion(prompt, adapter)
            _, expected = site.alone.post("/v1/completions", body)
            for said in site.of_each("POST", "/v1/completions", body):
                assert json.loads(said)["choices"] == expected["choices"]
            for said in site.of_each("POST", "/v1/completions", {**body, "stream": True}):
                events = [line[6:] for line in said.decode().splitlines() if line[:5] == "data:"]
                assert events.pop() == "[DONE]"
                choices = [json.loads(event)["choices"] for event in events]
                text = "".join(choice[0]["text"] for choice in choices if choice)
                assert text == expected["choices"][0]["text"]


def test_prompts_of_one_token_share_blocks_across_frontends_and_of_others_do_not(
    site: Site,
) -> None:
    def cached(token: str) -> list[int]:
        told = site.of_each("POST", "/v1/completions", body, {"X-Adapter-Token": token})
        usage = [json.loads(said)["usage"] for said in told]
        return [each["prompt_tokens_details"]["cached_tokens"] for each in usage]

    body = completion("Nobody has said this before, and it takes several blocks.", "")
    first, second = cached("token-of-alice")
    assert (first, second > 0) == (0, True)
    assert cached("token-of-bob")[0] == 0


def test_probes_and_info_tell_of_the_server(site: Site) -> None:
    for path in ("/health", "/ready", "/ping"):
        assert site.of_each("GET", path) == [b"", b""]
    first, second = map(json.loads, site.of_each("GET", "/info"))
    assert first == second
    assert first["max_concurrent_requests"] == 256
    first, second = site.of_each("GET", "/v1/models")
    assert first == second


def test_each_fetches_what_it_serves_and_the_engine_knows_it_again(site: Site) -> None:
    """Its own copy, in a folder of its own: one adapter to the engine, by its content."""
    fetches = 'lorax_adapter_fetches_total{source="hub"}'
    _, expected = site.alone.post("/v1/completions", completion("abc", "first"))
    site.of_each("POST", "/v1/completions", completion("abc", "first"))
    num_loads = site.num_loads()
    body = completion("abc", "org/first", adapter_source="hub")
    for _ in range(2):
        for said in site.of_each("POST", "/v1/completions", body):
            assert json.loads(said)["choices"] == expected["choices"]
        assert site.metrics()[fetches] == 2
    assert site.num_loads() == num_loads


def test_metrics_are_the_sum_whoever_is_asked(site: Site) -> None:
    name = 'lorax_adapter_requests_total{adapter="first"}'
    before = site.metrics()
    num_loads = site.num_loads()
    for _ in range(3):
        site.of_each("POST", "/v1/completions", completion("abc", "first"))
        now = site.metrics()
        assert now[name] == before.get(name, 0) + 2
        assert site.num_loads() == num_loads  # the engine's, who has them all
        assert all(now[key] >= value for key, value in before.items())
        before = now
