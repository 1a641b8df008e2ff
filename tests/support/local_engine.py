"""The real engine on a real (tiny) model, stepped in the test process; only the link is fake."""

import threading
from pathlib import Path

from engine_harness import FRONTEND, FakeLink, is_terminal
from lorax_serve.engine.assembly import assemble
from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.messages import (
    Abort,
    EngineReady,
    Generate,
    Pool,
    PromptPooled,
    RequestEvent,
    RequestFailed,
    TokensGenerated,
)
from lorax_serve.ipc.types import (
    AdapterRef,
    Pooling,
    RequestId,
    SamplingParams,
    StopConditions,
    TokenLogprob,
)
from tiny_tokenizers import write_byte_level


class LocalEngine:
    """Give it requests, step it, read what it said. Close it to join its threads."""

    def __init__(self, model: Path, **config: object) -> None:
        self._loaded = threading.Event()
        if not (model / "tokenizer.json").exists():
            write_byte_level(model, vocab_size=300)
        sizes = {
            "kv_cache_bytes": 4 * 2**20,
            "adapter_pool_bytes": 16 * 2**20,
            "host_adapter_bytes": 32 * 2**20,
        }
        settings = {**sizes, **config}
        self.parts = assemble(
            EngineConfig(endpoint="unused", model_path=str(model), **settings),
            report=lambda phase, fraction: None,
            on_loaded=self._loaded.set,
        )
        self.link = FakeLink()
        self.core = self.parts.core(self.link, EngineReady("", self.parts.info))

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.parts.exchange.close()

    def submit(self, request: Generate | Pool) -> None:
        self.link.inbox.append((FRONTEND, request))

    def abort(self, request_id: str) -> None:
        self.link.inbox.append((FRONTEND, Abort(RequestId(request_id))))

    def step(self) -> bool:
        self.core._receive(0)
        return self.core.step()

    def run_until_idle(self) -> None:
        """Step until nobody waits; sleep while adapters are being read."""
        while True:
            self._loaded.clear()
            if not self.step() and not self.link.inbox:
                if not self.parts.scheduler.num_waiting:
                    break
                if not self.parts.exchange.num_arriving:
                    assert self._loaded.wait(timeout=30), "an adapter load never ended"
        self.parts.scheduler.check_integrity()

    def take_events(self) -> list[RequestEvent]:
        events, self.link.events = self.link.events, []
        return events

    def collect_all(self) -> dict[str, "Generated"]:
        """What has been said since it was last taken, by request."""
        return collect(self.take_events())

    def generate(self, *requests: Generate | Pool) -> dict[str, "Generated"]:
        """Run requests that arrive together to their ends."""
        for request in requests:
            self.submit(request)
        self.run_until_idle()
        return self.collect_all()


class Generated:
    """Everything the engine said about one request."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: list[TokenLogprob] = []
        self.ends: list[RequestEvent] = []
        self.num_cached_tokens = 0
        self.vector = b""

    @property
    def failure(self) -> RequestFailed:
        (end,) = self.ends
        assert isinstance(end, RequestFailed), end
        return end


def collect(events: list[RequestEvent]) -> dict[str, Generated]:
    results: dict[str, Generated] = {}
    for event in events:
        result = results.setdefault(event.request_id, Generated())
        if isinstance(event, TokensGenerated):
            result.token_ids.extend(event.token_ids)
            result.logprobs.extend(event.logprobs or ())
            result.prompt_logprobs.extend(event.prompt_logprobs or ())
            if event.prompt is not None:
                result.num_cached_tokens = event.prompt.num_cached_tokens
        elif isinstance(event, PromptPooled):
            result.vector = event.vector
            result.num_cached_tokens = event.prompt.num_cached_tokens
        if is_terminal(event):
            result.ends.append(event)
    return results


def greedy(
    request_id: str,
    prompt: list[int],
    *,
    num_tokens: int = 16,
    adapter: Path | None = None,
    **sampling: object,
) -> Generate:
    """A request for exactly `num_tokens` tokens, greedy unless `sampling` says otherwise."""
    return Generate(
        request_id=RequestId(request_id),
        prompt_token_ids=prompt,
        sampling=SamplingParams(**{"temperature": 0.0, **sampling}),
        stop=StopConditions(max_new_tokens=num_tokens, ignore_eos=True),
        adapter=None if adapter is None else AdapterRef(adapter.name, str(adapter), "1"),
    )


def pooling_request(
    request_id: str, prompt: list[int], *, pooling: Pooling | None, adapter: Path | None = None
) -> Pool:
    return Pool(
        request_id=RequestId(request_id),
        prompt_token_ids=prompt,
        pooling=pooling,
        adapter=None if adapter is None else AdapterRef(adapter.name, str(adapter), "1"),
    )
