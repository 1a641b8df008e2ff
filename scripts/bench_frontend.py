"""What frontends cost: those of one server, over a stub engine that only makes up tokens.

    throughput    answers to 128 streams, tokens as fast as they can be sent: what is streamed, and
                  how much of the frontends' CPU each token takes
    latency       the same streams at a steady rate: how long a token is under way
    long_prompts  one stream beside prompts of a megabyte, of every kind: how long it waits for them

The engine, the streaming clients and the sender of long prompts are processes of their own. Prints
one JSON line for each measurement. Linux only: CPU time and memory are read from /proc.

    .venv/bin/python -P scripts/bench_frontend.py [--cases throughput,latency] [--frontends 2]
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from frontend_bench.bodies import STREAMS, long_calls
from frontend_bench.cases import beside_long_prompts, latency, throughput

PACKAGES = ("aiohttp", "msgspec", "pyzmq", "tokenizers")


def measurements(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    load = {
        "num_streams": options.streams,
        "num_tokens": options.tokens,
        "num_frontends": options.frontends,
    }
    for case in options.cases.split(","):
        match case:
            case "throughput":
                for api in options.apis.split(","):
                    yield throughput(api, **load, seconds=options.seconds)
            case "latency":
                for api in options.apis.split(","):
                    yield latency(api, **load, seconds=options.seconds, rate=options.rate)
            case "long_prompts":
                for kind in options.kinds.split(","):
                    yield beside_long_prompts(
                        kind, num_bytes=options.prompt_bytes, seconds=options.seconds
                    )
            case _:
                raise SystemExit(f"there is no case {case!r}")


def surroundings() -> dict[str, Any]:
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "device": cpu,
        "num_cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),  # of the last minute, this run included
        "versions": {"python": platform.python_version(), **versions},
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the frontend over a stub engine.")
    add = parser.add_argument
    add("--cases", default="throughput,latency,long_prompts")
    add("--apis", default=",".join(STREAMS))
    add("--frontends", type=int, default=1, help="processes; long prompts are sent to one")
    add("--streams", type=int, default=128)
    add("--tokens", type=int, default=256, help="of one answer")
    add("--rate", type=float, default=5000.0, help="of latency: tokens a second, all together")
    add("--kinds", default=",".join(["none", *long_calls(0)]), help="of long prompts")
    add("--prompt-bytes", type=int, default=1_000_000)
    add("--seconds", type=float, default=10.0, help="of one measurement")
    options = parser.parse_args()
    for figures in measurements(options):
        print(json.dumps({**figures, **surroundings()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
