"""Load on any server with OpenAI's completions or chat endpoint, and what came of it.

Sends streaming requests over a mix of LoRA adapters and prints one JSON line: throughput, time to
first token (TTFT), inter-token and end-to-end latencies, failures by kind, and the lag of this
generator itself. One client for every server, so that their figures can be compared.

    python scripts/bench_serve.py --url http://127.0.0.1:8080 --base-model NAME \\
        --adapter-pattern 'lora-{}' --num-adapters 128 --mix zipf \\
        --mode open --rate 8 --duration 120 --prompt-tokens --ignore-eos --warmup 128

All requests are drawn from --seed before the first is sent. A second run with the same seed sends
the same prompts: a server with a prefix cache has them, see `cached_prompt_tokens`. Percentiles are
linear between closest ranks. Needs aiohttp alone. Exit code 1: no request was answered.
"""

import argparse
import asyncio
import gc
import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, get_args

from load.case import Case, Endpoint, Mix, Mode
from load.client import Client, open_session
from load.loops import closed_loop, open_loop, watch_loop
from load.plan import Plan, make_plan
from load.report import Measured, report

OPEN_LOOP_WARMUP_CONCURRENCY = 8


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    add = parser.add_argument
    add("--url", required=True, help="the server, without a path")
    add("--label", default="", help="repeated in the report: the server's version, say")
    add("--endpoint", choices=get_args(Endpoint), default="completions")
    add("--base-model", default="", metavar="NAME", help="`model` of a request without adapter")
    add("--adapters", type=Path, metavar="FILE", help="adapters, one name a line")
    add("--adapter", action="append", default=[], metavar="NAME", help="an adapter; repeatable")
    add("--adapter-pattern", metavar="TEXT", help="adapters: its {} becomes 0, 1, ...")
    add("--num-adapters", type=_count, help="that many of the pattern, or the first of the names")
    add("--adapter-field", default="model", help="field of the body that names the adapter")
    add("--mix", choices=get_args(Mix), default="none", help="identical: all use the first adapter")
    add("--zipf-s", type=_positive, help="P(k-th adapter) ~ 1 / k**s (default 1.0)")
    add("--mode", choices=get_args(Mode), default="closed")
    add("--concurrency", type=_count, help="closed: requests under way at a time")
    add("--rate", type=_positive, help="open: mean Poisson arrivals a second")
    add("--duration", type=_positive, help="open: seconds in which requests arrive")
    add("--num-requests", type=_count)
    add("--prompts", type=Path, metavar="FILE", help='JSON lines {"prompt" | "messages": ...}')
    add("--prompt-tokens", action="store_true", help="random token ids, not words, as prompts")
    add("--max-token-id", type=_count, help="of --prompt-tokens (default 20000)")
    add("--input-len", type=_count, help="tokens; about that many in words (default 512)")
    add("--output-len", type=_count, default=128, help="max_tokens of each request")
    add("--ignore-eos", action="store_true", help="send `ignore_eos`, so that lengths are equal")
    add("--temperature", type=float, default=0.0)
    add("--extra-body", type=_object, default={}, metavar="JSON", help="more fields of each body")
    add("--seed", type=int, default=0)
    add("--warmup", type=_natural, default=0, help="requests before those measured")
    add("--timeout", type=_positive, default=600.0, help="seconds a request may take")
    add("--json", type=Path, metavar="FILE", help="append the line to this file as well")
    return parser


def case_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Case:
    """Exits where options contradict each other: none is ignored."""
    adapters = _adapters(options, parser)
    if (problem := _contradiction(options, adapters)) is not None:
        parser.error(problem)
    given = dict(vars(options))
    for name in ("adapter", "adapter_pattern", "num_adapters", "json"):
        del given[name]
    given |= {
        "url": options.url.rstrip("/"),
        "adapters": adapters,
        "zipf_s": (options.zipf_s or 1.0) if options.mix == "zipf" else None,
        "input_len": None if options.prompts else (options.input_len or 512),
        "max_token_id": (options.max_token_id or 20000) if options.prompt_tokens else None,
    }
    return Case(**given)


async def run(case: Case, plan: Plan) -> dict[str, Any]:
    """The report."""
    async with open_session(case) as session:
        client = Client(session, case)
        server = await client.server()
        at_once = case.concurrency or OPEN_LOOP_WARMUP_CONCURRENCY
        warmup = await closed_loop(client.send, plan.warmup, at_once)
        lags: list[float] = []
        watch = asyncio.create_task(watch_loop(lags))
        started, start, cpu_start = datetime.now(UTC), perf_counter(), process_time()
        if case.concurrency is None:
            outcomes = await open_loop(client.send, plan.measured)
        else:
            outcomes = await closed_loop(client.send, plan.measured, case.concurrency)
        wall, cpu = perf_counter() - start, process_time() - cpu_start
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
    return report(case, server, Measured(started, outcomes, warmup, wall, cpu, lags))


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    case = case_of(options, parser())
    plan = make_plan(case)
    gc.collect()
    gc.freeze()  # the plan is large and stays: no collection needs to walk through it
    result = asyncio.run(run(case, plan))
    line = json.dumps(result)
    print(line, flush=True)
    if options.json is not None:
        with options.json.open("a") as file:
            file.write(line + "\n")
    return 0 if result["num_ok"] else 1


def _contradiction(options: argparse.Namespace, adapters: tuple[str, ...]) -> str | None:
    given = {name for name, value in vars(options).items() if value}
    mix, mode = options.mix, options.mode
    needs_base = mix == "none" or options.adapter_field != "model"
    loop = {"closed": {"concurrency", "num_requests"}, "open": {"rate"}}
    other = {"closed": {"rate", "duration"}, "open": {"concurrency"}}
    rules = (
        (mix != "none" and not adapters, f"--mix {mix} needs adapters"),
        (mix == "none" and bool(adapters), "adapters need a --mix"),
        (needs_base and "base_model" not in given, "--base-model is needed"),
        (mix != "zipf" and "zipf_s" in given, "--zipf-s is for --mix zipf"),
        (not loop[mode] <= given, f"--mode {mode} needs {_flags(loop[mode])}"),
        (
            not {"duration", "num_requests"} & given,
            "--mode open needs --duration or --num-requests",
        ),
        (bool(other[mode] & given), f"{_flags(other[mode] & given)} is not for --mode {mode}"),
        (
            "prompts" in given and bool({"prompt_tokens", "input_len"} & given),
            "--prompts leaves no part to --prompt-tokens and --input-len",
        ),
        (
            options.endpoint == "chat" and "prompt_tokens" in given,
            "--endpoint chat takes no --prompt-tokens",
        ),
        (
            "max_token_id" in given and "prompt_tokens" not in given,
            "--max-token-id is for --prompt-tokens",
        ),
    )
    return next((message for broken, message in rules if broken), None)


def _flags(names: set[str]) -> str:
    return " and ".join(sorted("--" + name.replace("_", "-") for name in names))


def _adapters(options: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[str, ...]:
    sources = (options.adapters, options.adapter, options.adapter_pattern)
    if sum(map(bool, sources)) > 1:
        parser.error("adapters come from one of --adapters, --adapter and --adapter-pattern")
    number = options.num_adapters
    if options.adapter_pattern:
        if number is None or "{}" not in options.adapter_pattern:
            parser.error("--adapter-pattern needs {} in it and --num-adapters")
        return tuple(options.adapter_pattern.replace("{}", str(i)) for i in range(number))
    names = options.adapters.read_text().split() if options.adapters else options.adapter
    if number is not None and number > len(names):
        parser.error(f"--num-adapters {number}: there are {len(names)}")
    return tuple(names[:number])


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def _natural(text: str) -> int:
    if (value := int(text)) < 0:
        raise ValueError
    return value


def _positive(text: str) -> float:
    if not (value := float(text)) > 0:
        raise ValueError
    return value


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
