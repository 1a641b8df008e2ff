"""One engine in this process, with random weights and random adapters made on the device."""

import random
import time
from dataclasses import dataclass

import torch
from engine_bench.workloads import Case

from lorax_serve.engine.adapters.slab import PackedAdapter, plan_slab
from lorax_serve.engine.assembly import EngineParts, assemble_model
from lorax_serve.engine.core import EngineCore
from lorax_serve.engine.cuda.runner import CudaRunner
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


class NoGuides:
    def create(self, kind: str, payload: bytes, digest: str) -> Guide:
        raise InvalidGrammar("the benchmark constrains nothing")


class Mailbox:
    """Stands in for the socket."""

    def __init__(self) -> None:
        self.inbox: list[tuple[bytes, ToEngine]] = []
        self.num_tokens = 0
        self.num_ended = 0

    def receive(self, timeout_seconds: float | None) -> list[tuple[bytes, ToEngine]]:
        messages, self.inbox = self.inbox, []
        return messages

    def send(self, frontend: bytes, message: ToFrontend) -> bool:
        if isinstance(message, StepEvents):
            for event in message.events:
                if isinstance(event, RequestFailed):
                    raise SystemExit(f"a request failed: {event.message}")
                self.num_tokens += len(event.token_ids)
                self.num_ended += event.finish_reason is not None
        return True


class Bench:
    """One engine with random weights, and random adapters resident in its pool."""

    def __init__(self, config: EngineConfig, shape: ModelConfig) -> None:
        device = torch.device("cuda")
        self.model_config = shape
        started = time.perf_counter()
        self.model = random_model(self.model_config, device)
        self.parts: EngineParts = assemble_model(
            config, self.model, (0,), NoGuides(), report=lambda *_: None, on_loaded=lambda: None
        )
        assert isinstance(self.parts.runner, CudaRunner)
        self.runner = self.parts.runner
        torch.cuda.synchronize()
        self.start_seconds = time.perf_counter() - started
        self.link = Mailbox()
        self.core = EngineCore(
            link=self.link,
            ready=EngineReady("", self.parts.info),
            intake=self.parts.intake,
            scheduler=self.parts.scheduler,
            exchange=self.parts.exchange,
            runner=self.parts.runner,
        )
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

    def submit(self, case: Case, adapters: list[AdapterRef]) -> None:
        rng = random.Random(0)
        for index in range(case.num_requests):
            request = Generate(
                request_id=RequestId(f"{time.monotonic_ns()}-{index}"),
                prompt_token_ids=[
                    rng.randrange(1, self.model_config.vocab_size) for _ in range(case.num_prompt)
                ],
                sampling=SamplingParams(temperature=0.0),
                stop=StopConditions(max_new_tokens=case.num_output, ignore_eos=True),
                adapter=adapters[index % len(adapters)] if adapters else None,
            )
            self.link.inbox.append((b"bench", request))

    def run(self, case: Case, adapters: list[AdapterRef]) -> "Run":
        """All requests at once, to their ends."""
        self.submit(case, adapters)
        self.core._receive(0)
        self.link.num_tokens = self.link.num_ended = 0
        steps: list[float] = []
        num_eager_before = self.runner.num_eager_decodes
        torch.cuda.synchronize()
        started = last = time.perf_counter()
        while self.link.num_ended < case.num_requests:
            self.core.step()
            now = time.perf_counter()
            steps.append(now - last)
            last = now
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
        self.core.step()
        assert self.link.num_tokens == case.num_requests * case.num_output
        num_eager = self.runner.num_eager_decodes - num_eager_before
        return Run(elapsed, steps, self.link.num_tokens, num_eager)


@dataclass(frozen=True)
class Run:
    seconds: float
    steps: list[float]
    num_tokens: int
    num_eager_decodes: int  # decode steps without a CUDA graph


def random_model(config: ModelConfig, device: torch.device) -> Decoder:
    model, tensors = allocate_model(config, device=device, dtype=config.dtype)
    torch.manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensor.fill_(1.0)
        else:
            tensor.normal_(std=0.02)
    return model


def random_adapter(model: Decoder, rank: int, seed: int) -> PackedAdapter:
    """Every linear of every layer; the head is left alone, as adapters in the wild do."""
    ranks = {
        target.module: rank
        for site in model.sites
        for target in site.targets
        if target.module != "lm_head"
    }
    layout = plan_slab(model.sites, ranks, transposed_a=False)
    torch.manual_seed(seed)
    dtype = model.embedding.dtype
    slab = torch.empty(layout.num_elements, dtype=dtype, device=model.embedding.device)
    slab.normal_(std=0.01)
    return PackedAdapter(f"digest-{rank}-{seed}", layout, slab)
