"""GPU benchmark of the engine in one process: scheduler, runner, adapters, no sockets, no text.

Weights and adapters are random and made on the device. Each case runs with 0, 1, 8, 32 and 128
distinct adapters; with 0, the adapters are resident all the same.

    mixed    512 requests of 512 + 128 tokens
    decode   128 requests of 64 + 256 tokens
    single   1 request of 64 + 128 tokens

Greedy, without EOS, at most 256 sequences at once, no prefix cache, adapters resident beforehand.
Prints one JSON line a case.

    python3 scripts/bench_engine.py --shape llama-3-8b --adapters 0,1,8,32,128 --rank 16
"""

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from lorax_serve.engine.adapters.slab import PackedAdapter, plan_slab
from lorax_serve.engine.assembly import EngineParts, assemble_model
from lorax_serve.engine.core import EngineCore
from lorax_serve.engine.models.config import ModelConfig, parse_model_config
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.engine.models.json_fields import JsonFields
from lorax_serve.engine.models.loader import allocate_model
from lorax_serve.engine.models.sites import model_sites
from lorax_serve.grammar.errors import InvalidGrammar
from lorax_serve.grammar.guide import Guide
from lorax_serve.ipc.config import AttentionBackendName, Device, EngineConfig
from lorax_serve.ipc.messages import (
    EngineReady,
    Generate,
    RequestFailed,
    StepEvents,
    ToEngine,
    ToFrontend,
)
from lorax_serve.ipc.types import AdapterRef, RequestId, SamplingParams, StopConditions

BANDWIDTH_SAMPLE_BYTES = 4 * 2**30
SHAPES = {
    "llama-3-8b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
}
SHAPES["tiny"] = SHAPES["llama-3-8b"] | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}


@dataclass(frozen=True)
class Case:
    name: str
    num_requests: int
    num_prompt: int
    num_output: int


CASES = {
    case.name: case
    for case in (
        Case("mixed", 512, 512, 128),
        Case("decode", 128, 64, 256),
        Case("single", 1, 64, 128),
    )
}


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
        while self.parts.exchange.num_arriving:
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
        return Run(elapsed, steps, self.link.num_tokens)


@dataclass(frozen=True)
class Run:
    seconds: float
    steps: list[float]
    num_tokens: int


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


def copy_bandwidth() -> float:
    """Bytes a second of a large device copy, read and written."""
    source = torch.empty(BANDWIDTH_SAMPLE_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(5):
        start, end = (_event() for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return float(2 * BANDWIDTH_SAMPLE_BYTES / min(times))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def decode_floor_seconds(bench: Bench, case: Case, num_adapters: int, bandwidth: float) -> float:
    """Bytes that the case's decode steps must read, at the copy's bandwidth; not its prompts."""
    config = bench.model_config
    head_and_layers = bench.model.num_parameters - config.vocab_size * config.hidden_size
    weights = head_and_layers * config.dtype.itemsize
    kv_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * config.dtype.itemsize
    batch = min(case.num_requests, bench.parts.info.max_num_sequences)
    num_steps = case.num_requests * case.num_output / batch
    context = case.num_prompt + case.num_output / 2
    adapters = min(num_adapters, batch) * statistics.fmean(bench.adapter_bytes or [0])
    return num_steps * (weights + batch * context * kv_token + adapters) / bandwidth


def gpu_busy_share(run: Callable[[], object]) -> float:
    """The share of the run's wall time in which at least one kernel ran, by the profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type.name == "CUDA"
    )
    busy, reached = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return float(busy / (spans[-1][1] - spans[0][0]))


def report(**figures: object) -> None:
    versions = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
    }
    line = {**figures, "device": torch.cuda.get_device_name(), "versions": versions}
    print(json.dumps(line), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the engine on a GPU.")
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    parser.add_argument("--adapters", default="0,1,8,32,128", help="distinct adapters, by run")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--ranks", default="", help="ranks that adapters take in turn")
    parser.add_argument("--cases", default="mixed,decode,single")
    parser.add_argument("--attention-backend", default="auto")
    parser.add_argument("--max-adapter-rank", type=int, default=64)
    parser.add_argument("--max-batch-tokens", type=int, default=8192)
    parser.add_argument("--idle-share", action="store_true", help="also run under the profiler")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if not torch.cuda.is_available():
        print("bench_engine.py needs a CUDA device.", file=sys.stderr)
        return 2
    bandwidth = copy_bandwidth()
    torch.cuda.empty_cache()
    counts = sorted({int(count) for count in args.adapters.split(",")})
    shape = parse_model_config(JsonFields(SHAPES[args.shape], args.shape))
    ranks = [int(rank) for rank in args.ranks.split(",")] if args.ranks else [args.rank]
    config = EngineConfig(
        endpoint="unused",
        model_path="unused",
        device=Device.CUDA,
        attention_backend=AttentionBackendName(args.attention_backend),
        max_model_len=4096,
        prefix_cache=False,
        max_num_sequences=256,
        max_batch_tokens=args.max_batch_tokens,
        max_adapter_rank=args.max_adapter_rank,
        max_queued=4096,
        adapter_pool_bytes=pool_bytes(shape, max(counts), ranks),
    )
    bench = Bench(config, shape)
    report(
        case="start", seconds=round(bench.start_seconds, 2), num_blocks=bench.parts.info.num_blocks
    )
    refs = bench.place_adapters([ranks[index % len(ranks)] for index in range(max(counts))])
    base: dict[str, float] = {}
    for name in args.cases.split(","):
        case = CASES[name]
        for count in counts:
            adapters = refs[:count]
            warm = replace(case, num_output=4)
            bench.run(warm, adapters)
            run = bench.run(case, adapters)
            rate = run.num_tokens / run.seconds
            base.setdefault(name, rate)
            figures = {}
            if args.idle_share and name != "mixed":
                share = gpu_busy_share(partial(bench.run, case, adapters))
                figures["gpu_idle_share"] = round(1 - share, 4)
            floor = decode_floor_seconds(bench, case, count, bandwidth)
            steps = sorted(run.steps)
            report(
                case=name,
                adapters=count,
                rank=args.ranks or args.rank,
                attention_backend=args.attention_backend,
                out_tok_s=round(rate, 1),
                step_ms_p50=round(1000 * steps[len(steps) // 2], 3),
                step_ms_p99=round(1000 * steps[int(len(steps) * 0.99)], 3),
                retention=round(rate / base[name], 4),
                roofline_share=round(floor / run.seconds, 4),
                copy_tb_s=round(bandwidth / 1e12, 3),
                **figures,
            )
    return 0


def pool_bytes(config: ModelConfig, num_adapters: int, ranks: list[int]) -> int:
    """Room for the adapters, and a little more."""
    *layers, _ = model_sites(config).in_order()
    columns = sum(site.in_features + t.out_features for site in layers for t in site.targets)
    total = sum(ranks[index % len(ranks)] for index in range(num_adapters))
    return columns * total * config.dtype.itemsize + (64 << 20)


if __name__ == "__main__":
    sys.exit(main())
