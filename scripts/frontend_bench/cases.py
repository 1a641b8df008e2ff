"""The measurements. Each starts a server of its own and gives one JSON object."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from frontend_bench.client import Settings
from frontend_bench.process_use import ProcessUse
from frontend_bench.server import Server, running_server

_FOLDER = Path(__file__).parent


def throughput(
    api: str, *, num_streams: int, num_tokens: int, seconds: float, num_frontends: int = 1
) -> dict[str, Any]:
    """Steps follow each other as fast as they can be sent; each answer asks for `num_tokens`."""
    with running_server(0.0, num_frontends) as server:
        settings = _settings(server, api, num_streams, num_tokens, seconds)
        figures, uses = _streamed(server, settings)
    cost = _cost(settings, figures, uses)
    return {"case": "throughput", "num_frontends": num_frontends, **cost}


def latency(
    api: str,
    *,
    num_streams: int,
    num_tokens: int,
    seconds: float,
    rate: float,
    num_frontends: int = 1,
) -> dict[str, Any]:
    """`rate` tokens a second together: from when a step is sent to when its tokens are read."""
    with running_server(num_streams / rate, num_frontends) as server:
        settings = _settings(server, api, num_streams, num_tokens, seconds)
        figures, uses = _streamed(server, settings)
    cost = _cost(settings, figures, uses)
    measured = {**cost, **_latencies(figures["latencies"])}
    return {"case": "latency", "num_frontends": num_frontends, "rate": rate, **measured}


def beside_long_prompts(
    kind: str, *, num_bytes: int, seconds: float, step_seconds: float = 0.005
) -> dict[str, Any]:
    """One stream, while another client sends long prompts without pause; "none": without them."""
    with running_server(step_seconds) as server:
        settings = _settings(server, "native", 1, 1_000_000, seconds)
        if kind == "none":
            figures, _ = _streamed(server, settings)
            return {"case": "long_prompts", "kind": kind, **_latencies(figures["latencies"])}
        with _sending(server, kind, num_bytes) as sender:
            figures, uses = _streamed(server, settings)
            answered, _ = sender.communicate()
    if sender.returncode:
        raise SystemExit(f"the long prompts of kind {kind} were not answered")
    return {
        "case": "long_prompts",
        "kind": kind,
        "num_bytes": num_bytes,
        "num_answered": int(answered),
        **_memory(uses),
        **_latencies(figures["latencies"]),
    }


@contextmanager
def _sending(server: Server, kind: str, num_bytes: int) -> Iterator["subprocess.Popen[str]"]:
    arguments = (str(server.port), kind, str(num_bytes))
    with _script("long_prompts.py", *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def _settings(
    server: Server, api: str, num_streams: int, num_tokens: int, seconds: float
) -> Settings:
    return Settings(
        server.port, api, num_streams, num_tokens, seconds, ticks_file=str(server.ticks_file)
    )


def _streamed(server: Server, settings: Settings) -> tuple[dict[str, Any], list[ProcessUse]]:
    """What the client saw, and what the frontend had used at start, middle and end."""
    uses = []
    with _script("client.py", msgspec.json.encode(settings).decode()) as client:
        assert client.stdout is not None
        for line in client.stdout:
            uses.append(ProcessUse.of(*server.pids))
            if line.startswith("{"):
                return json.loads(line), uses
    raise SystemExit("the client ended without figures")


def _script(name: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", str(_FOLDER / name), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _cost(
    settings: Settings, figures: dict[str, Any], uses: Sequence[ProcessUse]
) -> dict[str, Any]:
    wall, num_tokens = figures["wall_s"], figures["num_tokens"]
    cpu = uses[-1].cpu_seconds - uses[0].cpu_seconds
    return {
        "api": settings.api,
        "num_streams": settings.num_streams,
        "tokens_per_answer": settings.num_tokens,
        "tok_s": round(num_tokens / wall),
        "tok_per_core_s": round(num_tokens / cpu),
        "frontend_cpu_s_per_1000_tok": round(1000 * cpu / num_tokens, 4),
        "frontend_cores": round(cpu / wall, 2),
        "client_cores": round(figures["client_cpu_s"] / wall, 2),
        **_memory(uses),
    }


def _memory(uses: Sequence[ProcessUse]) -> dict[str, Any]:
    """At start, middle and end."""
    return {"frontend_rss_mib": [round(use.resident_bytes / 2**20, 1) for use in uses]}


def _latencies(ordered: Sequence[float]) -> dict[str, Any]:
    shown = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {
        "latency_ms": {
            name: round(1000 * ordered[round(share * (len(ordered) - 1))], 2)
            for name, share in shown.items()
        },
        "num_latencies": len(ordered),
    }
