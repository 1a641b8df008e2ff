"""One engine in this process, with random weights and random adapters made on the device."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from engine_bench.workloads import Case

from lorax_serve.engine.adapters.slab import PackedAdapter, SlabLayout, plan_slab
from lorax_serve.engine.assembly import EngineParts, assemble_model, engine_device
from lorax_serve.engine.interpreter import prepare_interpreter
from lorax_serve.engine.models.config import ModelConfig
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.models.loader import allocate_model
from lorax_serve.grammar.errors import InvalidGrammar
from lorax_serve.grammar.guide import Guide
from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.messages import (
    EngineReady,
    Generate,
    RequestFailed,
    StepEvents,
    ToEngine,
    ToFrontend,
)
from lorax_serve.ipc.types import AdapterRef, RequestId, SamplingParams, StopConditions

IDLE_SECONDS = 0.001


class NoGuides:
    def create(self, kind: str, payload: bytes, digest: str) -> Guide:
        raise InvalidGrammar("the benchmark constrains nothing")


class Mailbox:
    """Stands in for the socket."""

    def __init__(self) -> None:
        self.inbox: list[tuple[bytes, ToEngine]] = []
        self.num_tokens = 0
        self.num_ended = 0
        self.first_tokens: list[float] = []  # when they came, by `time.perf_counter`

    def reset(self) -> None:
        self.num_tokens = self.num_ended = 0
        self.first_tokens = []

    def receive(self, timeout_seconds: float | None) -> list[tuple[bytes, ToEngine]]:
        messages, self.inbox = self.inbox, []
        return messages

    def send(self, frontend: bytes, message: ToFrontend) -> bool:
        if isinstance(message, StepEvents):
            for event in message.events:
                if isinstance(event, RequestFailed):
                    raise SystemExit(f"a request failed: {event.message}")
                if event.prompt is not None:
                    self.first_tokens.append(time.perf_counter())
                self.num_tokens += len(event.token_ids)
                self.num_ended += event.finish_reason is not None
        return True


class Bench:
    """One engine with random weights, and random adapters resident in its pool."""

    def __init__(self, config: EngineConfig, shape: ModelConfig) -> None:
        self.device = engine_device(config.device)
        self.model_config = shape
        started = time.perf_counter()
        self.model = random_model(self.model_config, self.device)
        self.parts: EngineParts = assemble_model(
            config, self.model, (0,), NoGuides(), report=lambda *_: None, on_loaded=lambda: None
        )
        prepare_interpreter()
        self.synchronize()
        self.start_seconds = time.perf_counter() - started
        self.link = Mailbox()
        self.core = self.parts.core(self.link, EngineReady("", self.parts.info))
        self.adapter_bytes: list[int] = []

    def place_adapters(self, ranks: list[int]) -> list[AdapterRef]:
        """Make adapters on the device's own generator and put them in the pool as loads would."""
        refs = []
        for index, rank in enumerate(ranks):
            packed = random_adapter(self.model, rank, seed=index)
            ref = AdapterRef(name=f"adapter-{index}", path=f"/{index}", revision=f"r{rank}")
            if not self.parts.exchange.adopt(ref, packed):
                raise SystemExit("the adapters do not fit in the pool")
            self.adapter_bytes.append(packed.num_bytes)
            refs.append(ref)
            while self.parts.exchange.num_arriving:  # holds on to the adapter until it is copied
                self.parts.exchange.poll()
        return refs

    def host_adapters(self, number: int, rank: int) -> list[AdapterRef]:
        """Fill the host tier as loads from files would; nothing is on the device."""
        store = self.parts.exchange.store
        noise = random_adapter(self.model, rank, seed=0)
        slab = noise.slab.cpu()
        refs = []
        for index in range(number):
            digest = f"on-host-{rank}-{index}"
            place = store.reserve(digest, noise.layout, read_seconds=0.0)
            if place is None:
                raise SystemExit("the adapters do not fit on the host")
            place.packed.slab.copy_(slab)
            place.packed.slab[0] = index / 1024  # no two alike
            store.publish(place)
            store.unpin(place)
            ref = AdapterRef(name=f"adapter-{index}", path=f"/{index}", revision=digest)
            self.parts.exchange.know(ref, digest)
            refs.append(ref)
        self.adapter_bytes = [noise.num_bytes]
        return refs

    def submit(self, case: Case, adapters: Sequence[AdapterRef | None]) -> None:
        """The case's requests; they take the adapters in turn."""
        rng = random.Random(0)
        for index in range(case.num_requests):
            request = Generate(
                request_id=RequestId(f"{time.monotonic_ns()}-{index}"),
                prompt_token_ids=[
                    rng.randrange(1, self.model_config.vocab_size) for _ in range(case.num_prompt)
                ],
                sampling=SamplingParams(temperature=0.0),
                stop=StopConditions(max_new_tokens=case.num_output, ignore_eos=True),
                adapter=adapters[index % len(adapters)],
            )
            self.link.inbox.append((b"bench", request))

    def run(
        self,
        case: Case,
        adapters: Sequence[AdapterRef | None],
        between_steps: Callable[[], object] = lambda: None,
    ) -> "Run":
        """All requests at once, to their ends."""
        self.submit(case, adapters)
        self.link.reset()
        steps: list[float] = []
        num_eager_before = self.num_eager_decodes
        self.synchronize()
        started = last = time.perf_counter()
        self.core._receive(0)
        while self.link.num_ended < case.num_requests:
            if not self.core.step():
                time.sleep(IDLE_SECONDS)  # a loop with nothing to run waits for what arrives
            between_steps()
            now = time.perf_counter()
            steps.append(now - last)
            last = now
        self.synchronize()
        elapsed = time.perf_counter() - started
        self.core.step()
        assert self.link.num_tokens == case.num_requests * case.num_output
        first_tokens = sorted(at - started for at in self.link.first_tokens)
        num_eager = self.num_eager_decodes - num_eager_before
        return Run(elapsed, steps, first_tokens, self.link.num_tokens, num_eager)

    @property
    def num_eager_decodes(self) -> int:
        return int(getattr(self.parts.runner, "num_eager_decodes", 0))  # a CPU's has no graphs

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Run:
    seconds: float
    steps: list[float]
    first_tokens: list[float]  # seconds from the start, ascending
    num_tokens: int
    num_eager_decodes: int  # decode steps without a CUDA graph

    @property
    def decodes(self) -> list[float]:
        """The steps after every request's first token."""
        ends = accumulate(self.steps)
        last = self.first_tokens[-1]
        return [step for step, end in zip(self.steps, ends, strict=True) if end - step > last]


def random_model(config: ModelConfig, device: torch.device) -> Decoder:
    model, tensors = allocate_model(config, device=device, dtype=config.dtype)
    torch.manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        else:
            tensor.normal_(std=0.02)
    return model


def adapter_layout(model: Decoder, rank: int) -> SlabLayout:
    """Every linear of every layer; the head is left alone, as adapters in the wild do."""
    ranks = {
        target.module: rank
        for site in model.sites
        for target in site.targets
        if target.module != "lm_head"
    }
    return plan_slab(model.sites, ranks, transposed_a=False)


def random_adapter(model: Decoder, rank: int, seed: int) -> PackedAdapter:
    layout = adapter_layout(model, rank)
    torch.manual_seed(seed)
    dtype = model.embedding.dtype
    slab = torch.empty(layout.num_elements, dtype=dtype, device=model.embedding.device)
    slab.normal_(std=0.01)
    return PackedAdapter(f"digest-{rank}-{seed}", layout, slab)
