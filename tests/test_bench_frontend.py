"""The frontend's benchmark: every measurement gives its figures of a real server."""

import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from frontend_bench.bodies import long_calls
from frontend_bench.cases import beside_long_prompts, latency, throughput
from frontend_bench.process_use import ProcessUse
from frontend_bench.ticks import NUM_TICKS, Ticks

SMALL = {"num_streams": 3, "num_tokens": 8, "seconds": 0.5}


def test_throughput() -> None:
    figures = throughput("native", **SMALL)
    assert figures["tok_s"] > 0
    assert figures["frontend_cores"] > 0
    assert len(figures["frontend_rss_mib"]) == 3


def test_throughput_of_two_frontends_is_that_of_both() -> None:
    one, two = (throughput("native", **SMALL, num_frontends=number) for number in (1, 2))
    assert two["tok_s"] > 0
    assert two["frontend_rss_mib"][0] > 1.5 * one["frontend_rss_mib"][0]


def test_latency() -> None:
    """At a rate that leaves no doubt which tokens belong to the time measured."""
    figures = latency("chat", **SMALL, rate=300)
    assert figures["num_latencies"] == pytest.approx(150, abs=60)
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["max"]


def test_long_prompts() -> None:
    figures = beside_long_prompts("echo", num_bytes=5000, seconds=0.5)
    assert figures["num_answered"] >= 1
    assert figures["num_latencies"] > 0


def test_long_prompts_are_as_long_as_they_say() -> None:
    for kind, call in long_calls(100_000).items():
        assert 95_000 < len(call.body) < 140_000, kind


def test_ticks_are_shared(tmp_path: Path) -> None:
    with Ticks(tmp_path / "ticks") as ours, Ticks(tmp_path / "ticks") as theirs:
        ours.stamp(NUM_TICKS - 1)
        assert theirs.time_of(NUM_TICKS - 1) == ours.time_of(NUM_TICKS - 1) > 0


def test_what_a_process_uses_is_what_it_sees_itself() -> None:
    seen = time.process_time()
    use = ProcessUse.of(os.getpid())
    assert seen - 0.1 < use.cpu_seconds < time.process_time() + 0.1
    assert 2**20 < use.resident_bytes < 2**36
