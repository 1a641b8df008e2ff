"""GPU benchmark of the engine in one process: scheduler, runner, adapters, no sockets, no text.

Weights and adapters are random and made on the device. Each case runs with 0, 1, 8, 32 and 128
distinct adapters; with 0, the adapters are resident all the same.

    mixed    512 requests of 512 + 128 tokens
    decode   128 requests of 64 + 256 tokens
    single   1 request of 64 + 128 tokens

Greedy, without EOS, at most 256 sequences at once, no prefix cache, adapters resident beforehand.
Prints one JSON line a case. `gpu_idle_share` comes from a shorter run of the same case under
torch's profiler, `roofline_share` is the least time the case could take over what it took, and
`num_eager_decodes` counts the decode steps that no CUDA graph was replayed for.

    python3 scripts/bench_engine.py --shape llama-3-8b --adapters 0,1,8,32,128 --rank 16
"""

import argparse
import json
import platform
import sys
from dataclasses import replace
from functools import partial

import torch
from engine_bench.bench import Bench
from engine_bench.device_time import DeviceTimeline, Rates, floor_seconds
from engine_bench.workloads import CASES, SHAPES, Case

from lorax_serve.engine.models.config import ModelConfig, parse_model_config
from lorax_serve.engine.models.json_fields import JsonFields
from lorax_serve.engine.models.sites import model_sites
from lorax_serve.ipc.config import AttentionBackendName, Device, EngineConfig
from lorax_serve.ipc.types import AdapterRef

WARM_UP_OUTPUT = 4  # tokens
PROFILED_OUTPUT = 48
NUM_LISTED_KERNELS = 24


def report(**figures: object) -> None:
    versions = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
    }
    line = {**figures, "device": torch.cuda.get_device_name(), "versions": versions}
    print(json.dumps(line), flush=True)


def measure(
    bench: Bench, case: Case, adapters: list[AdapterRef], rates: Rates, *, list_kernels: bool
) -> tuple[float, dict[str, object]]:
    """Output tokens a second, and what else is said about the case."""
    bench.run(replace(case, num_output=WARM_UP_OUTPUT), adapters)
    run = bench.run(case, adapters)
    profiled = replace(case, num_output=min(PROFILED_OUTPUT, case.num_output))
    timeline = DeviceTimeline(partial(bench.run, profiled, adapters))
    steps = sorted(run.steps)
    figures: dict[str, object] = {
        "out_tok_s": round(run.num_tokens / run.seconds, 1),
        "step_ms_p50": round(1000 * steps[len(steps) // 2], 3),
        "step_ms_p99": round(1000 * steps[int(len(steps) * 0.99)], 3),
        "gpu_idle_share": round(timeline.idle_share(), 4),
        "roofline_share": round(floor_seconds(bench, case, len(adapters), rates) / run.seconds, 4),
        "num_steps": len(steps),
        "num_eager_decodes": run.num_eager_decodes,
    }
    if list_kernels:
        figures["kernels_ms_and_calls"] = timeline.longest(NUM_LISTED_KERNELS)
        figures["profiled_output"] = profiled.num_output
    return run.num_tokens / run.seconds, figures


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
    parser.add_argument("--kernels", action="store_true", help="list the kernels that took longest")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if not torch.cuda.is_available():
        print("bench_engine.py needs a CUDA device.", file=sys.stderr)
        return 2
    rates = Rates.measured()
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
        case="start",
        seconds=round(bench.start_seconds, 2),
        num_blocks=bench.parts.info.num_blocks,
        copy_tb_s=round(rates.bytes_per_second / 1e12, 3),
        matmul_tflop_s=round(rates.flops_per_second / 1e12, 1),
    )
    refs = bench.place_adapters([ranks[index % len(ranks)] for index in range(max(counts))])
    for name in args.cases.split(","):
        case = CASES[name]
        base: float | None = None
        for count in counts:
            rate, figures = measure(bench, case, refs[:count], rates, list_kernels=args.kernels)
            base = base or rate
            report(
                case=name,
                adapters=count,
                rank=args.ranks or args.rank,
                attention_backend=args.attention_backend,
                retention=round(rate / base, 4),
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
