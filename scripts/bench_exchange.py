"""CPU benchmark of the adapter exchange: the engine in one process, adapters in a temporary folder.

    policy     the same Zipf trace through one tier and through an LRU cache, adapters of one size
               and of mixed sizes
    zipf       closed loop over adapters that fit neither tier; every output against a solo run
    churn      never-seen adapters at a fixed rate beside a steady background decode
    neighbour  one tenant at ten times its share, twenty quiet ones; and the quiet ones alone
    waiting    planning a step while requests wait for thousands of adapters

Prints one JSON line a case. Ratios are of two measurements of the same run.

    .venv/bin/python scripts/bench_exchange.py [--cases policy,zipf,churn,...] [--scale 0.1]
"""

import argparse
import sys

import torch
from exchange_cases.churn import churn
from exchange_cases.neighbour import neighbour
from exchange_cases.policy import policy
from exchange_cases.waiting import waiting
from exchange_cases.zipf import zipf

from lorax_serve.engine.interpreter import prepare_interpreter
from lorax_serve.engine.logging import configure_logging

CASES = {"policy": policy, "zipf": zipf, "churn": churn, "neighbour": neighbour, "waiting": waiting}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the adapter exchange on a CPU.")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--scale", type=float, default=1.0, help="of requests, adapters, seconds")
    parser.add_argument("--threads", type=int, default=1, help="of the forward pass")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    configure_logging("warning", as_json=False)
    prepare_interpreter()
    for name in args.cases.split(","):
        CASES[name](args.scale)
    return 0


if __name__ == "__main__":
    sys.exit(main())
