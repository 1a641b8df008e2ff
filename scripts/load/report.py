"""Outcomes to one JSON object. Latencies and token counts are those of answered requests only."""

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import aiohttp

from load.case import Case
from load.client import Outcome

NUM_NAMED_ADAPTERS = 5
CLIENT = {"python": platform.python_version(), "aiohttp": aiohttp.__version__}


@dataclass(frozen=True)
class Measured:
    """What was seen of a run. Times in seconds."""

    started: datetime
    outcomes: Sequence[Outcome]
    warmup: Sequence[Outcome]
    wall: float  # from the start to the end of the last answer
    cpu: float  # of this process
    loop_lags: Sequence[float]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Linear between the two closest ranks of ascending values, as NumPy's default."""
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


def milliseconds(seconds: Iterable[float]) -> dict[str, float] | None:
    """Mean, percentiles and maximum; None of nothing."""
    ordered = sorted(seconds)
    if not ordered:
        return None
    figures = {"mean": fmean(ordered)}
    figures |= {f"p{percent}": percentile(ordered, percent) for percent in (50, 90, 99)}
    figures["max"] = ordered[-1]
    return {name: round(1000 * value, 3) for name, value in figures.items()}


def report(case: Case, server: dict[str, Any], measured: Measured) -> dict[str, Any]:
    answered = [outcome for outcome in measured.outcomes if outcome.failure is None]
    return {
        "started": measured.started.isoformat(timespec="seconds"),
        "case": case.settings(),
        "server": server,
        "client": CLIENT,
        **_requests(measured.outcomes),
        **_throughput(answered, measured.wall),
        **_latencies(answered),
        "adapters": _adapters(answered),
        "generator": _generator(case, measured),
        "warmup": _requests(measured.warmup),
    }


def _requests(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """`error_samples` has one text per kind of failure."""
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    return {
        "num_requests": len(outcomes),
        "num_ok": len(outcomes) - len(failures),
        "num_failed": len(failures),
        "errors": dict(Counter(failure.kind for failure in failures).most_common()),
        "error_samples": {failure.kind: failure.detail for failure in reversed(failures)},
    }


def _throughput(answered: Sequence[Outcome], wall: float) -> dict[str, Any]:
    """What makes two runs comparable is beside it: cached prompts and answers cut short."""
    answers = [outcome.answer for outcome in answered]
    num_output = sum(outcome.num_tokens for outcome in answered)
    num_prompt = sum(answer.prompt_tokens or 0 for answer in answers)
    cached = [a.cached_tokens for a in answers if a.cached_tokens is not None]
    return {
        "wall_s": round(wall, 3),
        "req_s": round(len(answered) / wall, 3),
        "output_tok_s": round(num_output / wall, 2),
        "total_tok_s": round((num_prompt + num_output) / wall, 2),
        "prompt_tokens": num_prompt,
        "cached_prompt_tokens": sum(cached) if cached else None,
        "output_tokens": num_output,
        "num_short_answers": sum(o.num_tokens < o.request.max_tokens for o in answered),
        "num_without_usage": sum(answer.completion_tokens is None for answer in answers),
    }


def _latencies(answered: Sequence[Outcome]) -> dict[str, Any]:
    """ITL is between events with text, which may bring several tokens; TPOT is per token."""
    with_text = [outcome for outcome in answered if outcome.answer.text_times]
    times = [outcome.answer.text_times for outcome in with_text]
    return {
        "ttft_ms": milliseconds(o.answer.text_times[0] - o.due for o in with_text),
        "itl_ms": milliseconds(b - a for each in times for a, b in pairwise(each)),
        "tpot_ms": milliseconds(
            (outcome.answer.text_times[-1] - outcome.answer.text_times[0])
            / (outcome.num_tokens - 1)
            for outcome in with_text
            if outcome.num_tokens > 1
        ),
        "e2e_ms": milliseconds(outcome.answer.ended - outcome.due for outcome in answered),
    }


def _adapters(answered: Sequence[Outcome]) -> dict[str, Any]:
    """Over answered requests that name an adapter."""
    counts = Counter(o.request.adapter for o in answered if o.request.adapter is not None)
    numbers = sorted(counts.values())
    return {
        "distinct": len(counts),
        "requests_min": numbers[0] if numbers else 0,
        "requests_median": median(numbers) if numbers else 0,
        "requests_max": numbers[-1] if numbers else 0,
        "most_asked": dict(counts.most_common(NUM_NAMED_ADAPTERS)),
    }


def _generator(case: Case, measured: Measured) -> dict[str, Any]:
    """Whether the figures are the server's: lags near the latencies, or a busy core, say no."""
    lags = [outcome.sent - outcome.due for outcome in measured.outcomes]
    return {
        "send_lag_ms": milliseconds(lags) if case.mode == "open" else None,
        "loop_lag_ms": milliseconds(measured.loop_lags),
        "cpu_share": round(measured.cpu / measured.wall, 3),
    }
