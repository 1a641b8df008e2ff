"""All requests of a run, drawn and encoded before the first is sent: a seed fixes every byte.

Arrivals, adapters and prompts come from random streams of their own, so that changing the rate
leaves the prompts as they were.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from random import Random
from typing import Any

from load.case import Case
from load.prompts import prompts


@dataclass(frozen=True)
class PlannedRequest:
    at: float  # seconds after the start; 0 in a closed loop
    adapter: str | None  # None: the base model
    max_tokens: int
    body: bytes


@dataclass(frozen=True)
class Plan:
    warmup: tuple[PlannedRequest, ...]
    measured: tuple[PlannedRequest, ...]


def make_plan(case: Case) -> Plan:
    """Warm-up requests take the mix's adapters in turn, and prompts that are not measured."""
    arrivals = _arrivals(case)
    drawn = draw_adapters(case, len(arrivals), Random(f"{case.seed}/adapters"))
    names = _names(case)
    in_turn = [names[i % len(names)] for i in range(case.warmup)]
    times = [*arrivals, *(0.0 for _ in in_turn)]
    fields = islice(prompts(case, Random(f"{case.seed}/prompts")), len(times))
    requests = [
        _request(case, at, adapter, prompt)
        for at, adapter, prompt in zip(times, [*drawn, *in_turn], fields, strict=True)
    ]
    return Plan(tuple(requests[len(arrivals) :]), tuple(requests[: len(arrivals)]))


def arrival_times(
    rate: float, rng: Random, *, num_requests: int | None = None, duration: float | None = None
) -> list[float]:
    """A Poisson process: exponential gaps of mean `1 / rate` seconds, the first one included.

    Ends after `num_requests` or before `duration` seconds, whichever comes first.
    """
    assert num_requests is not None or duration is not None
    times: list[float] = []
    at = rng.expovariate(rate)
    while (num_requests is None or len(times) < num_requests) and (
        duration is None or at < duration
    ):
        times.append(at)
        at += rng.expovariate(rate)
    return times


def draw_adapters(case: Case, count: int, rng: Random) -> Sequence[str | None]:
    """One adapter per request, drawn independently; under zipf, the k-th of P(k) ~ 1 / k**s."""
    names = _names(case)
    if case.zipf_s is None:
        return rng.choices(names, k=count)
    weights = (1 / rank**case.zipf_s for rank in range(1, len(names) + 1))
    return rng.choices(names, cum_weights=list(accumulate(weights)), k=count)


def _arrivals(case: Case) -> list[float]:
    if case.rate is None:
        assert case.num_requests is not None
        return [0.0] * case.num_requests
    rng = Random(f"{case.seed}/arrivals")
    return arrival_times(case.rate, rng, num_requests=case.num_requests, duration=case.duration)


def _names(case: Case) -> Sequence[str | None]:
    if case.mix == "none":
        return [None]
    return case.adapters[:1] if case.mix == "identical" else case.adapters


def _request(case: Case, at: float, adapter: str | None, prompt: dict[str, Any]) -> PlannedRequest:
    body = {
        "model": case.base_model,
        "max_tokens": case.output_len,
        "temperature": case.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        **prompt,
    }
    if adapter is not None:
        body[case.adapter_field] = adapter
    if case.ignore_eos:
        body["ignore_eos"] = True
    body |= case.extra_body
    return PlannedRequest(at, adapter, body["max_tokens"], json.dumps(body).encode())
