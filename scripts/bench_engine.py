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

Two cases in which adapters travel take the whole memory, so each is run by itself: 512 requests of
64 + 128 tokens, at most 128 at once. They are told how many adapters there are (--num-adapters)
and for how many the device has room (--device-room).

    exchange     adapters are folders in memory: the first touch of all; traffic over as many as
                 have room, Zipf 1.0 and uniform over all; copies; the first use of one that is on
                 the host; 20 loads a second beside decodes
    population   adapters are on the host: Zipf 1.0 over all, against the base model

    python3 scripts/bench_engine.py --cases exchange --num-adapters 256 --device-room 32
"""

import argparse
import json
import platform
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec
import torch
from engine_bench.adapter_files import write_adapters
from engine_bench.bench import Bench
from engine_bench.device_time import Rates
from engine_bench.resident import resident_figures
from engine_bench.travelling import exchange_figures, population_figures
from engine_bench.workloads import SHAPES

from lorax_serve.engine.models.config import ModelConfig, parse_model_config
from lorax_serve.engine.models.json_fields import JsonFields
from lorax_serve.engine.models.sites import model_sites
from lorax_serve.ipc.config import AttentionBackendName, Device, EngineConfig

MEMORY_FOLDER = Path("/dev/shm")
NUM_UNSEEN = 180  # adapters kept for the loads beside decodes
EXCHANGE_SEQUENCES = 128
EXCHANGE = "exchange"
POPULATION = "population"


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
    parser.add_argument("--num-adapters", type=int, default=256)
    parser.add_argument("--device-room", type=int, default=32)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    if args.device == "cpu" and args.cases not in (EXCHANGE, POPULATION):
        parser.error(f"only --cases {EXCHANGE} and {POPULATION} run on a CPU, to be tried out")
    return args


def main() -> int:
    args = arguments()
    # Whoever cuts a run short has the memory back that its adapters' files take.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if args.device == "cuda" and not torch.cuda.is_available():
        print("bench_engine.py needs a CUDA device.", file=sys.stderr)
        return 2
    shape = parse_model_config(JsonFields(SHAPES[args.shape], args.shape))
    if args.cases == EXCHANGE:
        measure_exchange(args, shape)
    elif args.cases == POPULATION:
        measure_population(args, shape)
    else:
        measure_resident(args, shape)
    return 0


def measure_resident(args: argparse.Namespace, shape: ModelConfig) -> None:
    rates = Rates.measured()
    torch.cuda.empty_cache()
    counts = sorted({int(count) for count in args.adapters.split(",")})
    ranks = [int(rank) for rank in args.ranks.split(",")] if args.ranks else [args.rank]
    config = engine_config(args, num_sequences=256, pool=pool_bytes(shape, max(counts), ranks))
    bench = Bench(config, shape)
    report(
        case="start",
        seconds=round(bench.start_seconds, 2),
        num_blocks=bench.parts.info.num_blocks,
        copy_tb_s=round(rates.bytes_per_second / 1e12, 3),
        matmul_tflop_s=round(rates.flops_per_second / 1e12, 1),
    )
    refs = bench.place_adapters([ranks[index % len(ranks)] for index in range(max(counts))])
    lines = resident_figures(
        bench,
        refs,
        rates,
        cases=args.cases.split(","),
        counts=counts,
        list_kernels=args.kernels,
    )
    report_all(lines, rank=args.ranks or args.rank, attention_backend=args.attention_backend)


def measure_exchange(args: argparse.Namespace, shape: ModelConfig) -> None:
    number = args.num_adapters + NUM_UNSEEN
    config = engine_config(
        args,
        num_sequences=EXCHANGE_SEQUENCES,
        pool=pool_bytes(shape, args.device_room, [args.rank]),
        host=pool_bytes(shape, number, [args.rank]),
    )
    parent = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        bench = Bench(config, shape)
        sites = bench.model.sites
        refs = write_adapters(Path(folder), sites, args.rank, number, bench.model.embedding.dtype)
        seen, unseen = refs[: args.num_adapters], refs[args.num_adapters :]
        lines = exchange_figures(bench, seen, unseen, rank=args.rank, num_places=args.device_room)
        report_all(lines, case=EXCHANGE, rank=args.rank, device_room=args.device_room)
        bench.parts.exchange.close()


def measure_population(args: argparse.Namespace, shape: ModelConfig) -> None:
    fits = args.device_room >= args.num_adapters
    config = engine_config(
        args,
        num_sequences=EXCHANGE_SEQUENCES,
        pool=pool_bytes(shape, args.device_room, [args.rank]),
        host=1 if fits else pool_bytes(shape, args.num_adapters, [args.rank]),
    )
    bench = Bench(config, shape)
    if fits:
        refs = bench.place_adapters([args.rank] * args.num_adapters)
    else:
        refs = bench.host_adapters(args.num_adapters, args.rank)
    lines = population_figures(bench, refs, "resident" if fits else "zipf")
    report_all(lines, case=POPULATION, rank=args.rank, device_room=args.device_room)
    bench.parts.exchange.close()


def engine_config(
    args: argparse.Namespace, *, num_sequences: int, pool: int, host: int = 1
) -> EngineConfig:
    config = EngineConfig(
        endpoint="unused",
        model_path="unused",
        device=Device(args.device),
        attention_backend=AttentionBackendName(args.attention_backend),
        max_model_len=4096,
        prefix_cache=False,
        max_num_sequences=num_sequences,
        max_batch_tokens=args.max_batch_tokens,
        max_adapter_rank=args.max_adapter_rank,
        max_queued=4096,
        adapter_pool_bytes=pool,
        host_adapter_bytes=host,
    )
    if args.device == "cpu":
        return msgspec.structs.replace(config, kv_cache_bytes=1 << 28)
    return config


def pool_bytes(config: ModelConfig, num_adapters: int, ranks: list[int]) -> int:
    """Room for the adapters, and a little more."""
    *layers, _ = model_sites(config).in_order()
    columns = sum(site.in_features + t.out_features for site in layers for t in site.targets)
    per_rank = columns * config.dtype.itemsize
    total = per_rank * sum(ranks[index % len(ranks)] for index in range(num_adapters))
    return total + per_rank * min(ranks) // 2


def report_all(lines: Iterable[dict[str, object]], **common: object) -> None:
    for line in lines:
        report(**(common | line))


def report(**figures: object) -> None:
    cuda = torch.cuda.is_available()
    versions = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
    }
    device = torch.cuda.get_device_name() if cuda else platform.processor()
    print(json.dumps({**figures, "device": device, "versions": versions}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
