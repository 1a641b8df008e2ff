"""The load generator: what it plans, how it reads streams, and its figures of a scripted server."""

import asyncio
import gc
import json
import sys
from collections import Counter
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from fake_openai import NUM_PROMPT_TOKENS, FakeOpenAI

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import bench_serve
from load.case import Case
from load.plan import arrival_times, draw_adapters, make_plan
from load.report import milliseconds, percentile
from load.stream import Answer, Failure, SseDecoder

CLOSED = ("--concurrency", "4", "--num-requests", "12")
ZIPF = ("--adapter-pattern", "lora-{}", "--num-adapters", "10", "--mix", "zipf")


def case(*arguments: str, url: str = "http://localhost:1") -> Case:
    parser = bench_serve.parser()
    small = ["--url", url, "--output-len", "3"]
    if "--prompts" not in arguments:
        small += ["--input-len", "5"]
    return bench_serve.case_of(parser.parse_args([*small, *arguments]), parser)


async def measure(wanted: Case) -> dict[str, Any]:
    return await bench_serve.run(wanted, make_plan(wanted))


def test_a_seed_fixes_every_byte_and_another_changes_them() -> None:
    options = (*ZIPF, "--mode", "open", "--rate", "50", "--duration", "2", "--warmup", "3")
    assert make_plan(case(*options)) == make_plan(case(*options))
    bodies = [[r.body for r in make_plan(case(*options, "--seed", s)).measured] for s in "12"]
    assert bodies[0] != bodies[1]


def test_the_rate_changes_neither_adapters_nor_prompts() -> None:
    slow, fast = (
        make_plan(case(*ZIPF, "--mode", "open", "--rate", rate, "--num-requests", "20")).measured
        for rate in ("1", "9")
    )
    assert [r.body for r in slow] == [r.body for r in fast]
    assert [r.at for r in slow] == pytest.approx([9 * r.at for r in fast])


def test_warmup_takes_adapters_in_turn_and_leaves_the_measured_alone() -> None:
    plan = make_plan(case(*ZIPF, *CLOSED, "--warmup", "12"))
    assert [r.adapter for r in plan.warmup] == [f"lora-{i % 10}" for i in range(12)]
    assert plan.measured == make_plan(case(*ZIPF, *CLOSED)).measured
    assert not {r.body for r in plan.warmup} & {r.body for r in plan.measured}


def test_arrivals_are_poisson() -> None:
    times = arrival_times(20.0, Random("arrivals"), duration=1000.0)
    gaps = np.diff(times)
    assert 0 < times[0] < times[-1] < 1000
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # exponential
    assert arrival_times(20.0, Random("arrivals"), duration=1000.0, num_requests=7) == times[:7]


def test_zipf_frequencies() -> None:
    wanted = case(*ZIPF, *CLOSED, "--zipf-s", "1.5")
    count = 100_000
    counts = Counter(draw_adapters(wanted, count, Random("zipf")))
    weights = [rank**-1.5 for rank in range(1, 11)]
    for i, share in enumerate(weight / sum(weights) for weight in weights):
        deviation = sqrt(count * share * (1 - share))
        assert counts[f"lora-{i}"] == pytest.approx(count * share, abs=5 * deviation)


@pytest.mark.parametrize(
    ("mix", "shares"),
    [("identical", {"a": 1.0}), ("uniform", {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})],
)
def test_other_mixes(mix: str, shares: dict[str, float]) -> None:
    names = ("--adapter", "a", "--adapter", "b", "--adapter", "c")
    counts = Counter(draw_adapters(case(*names, *CLOSED, "--mix", mix), 30_000, Random("mix")))
    assert {name: n / 30_000 for name, n in counts.items()} == pytest.approx(shares, rel=0.03)


def test_bodies() -> None:
    extra = ("--ignore-eos", "--extra-body", '{"ignore_eos_token": true, "top_k": 1}')
    (request, *_) = make_plan(case("--base-model", "base", *CLOSED, *extra)).measured
    body = json.loads(request.body)
    assert len(body.pop("prompt").split()) == 5
    assert body == {
        "model": "base",
        "max_tokens": 3,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "ignore_eos_token": True,
        "top_k": 1,
    }


def test_token_prompts_and_another_adapter_field() -> None:
    options = ("--prompt-tokens", "--max-token-id", "200", "--adapter-field", "lora_path")
    plan = make_plan(case(*ZIPF, *CLOSED, *options, "--base-model", "base"))
    body = json.loads(plan.measured[0].body)
    assert (body["model"], body["lora_path"]) == ("base", plan.measured[0].adapter)
    assert len(body["prompt"]) == 5
    assert all(100 <= token_id <= 200 for token_id in body["prompt"])


def test_prompts_of_a_file_come_in_order_and_over_again(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n\n{"messages": [{"content": "two"}], "max_tokens": 9}\n')
    options = ("--base-model", "base", "--endpoint", "chat", "--prompts", str(file))
    plan = make_plan(case(*options, "--concurrency", "1", "--num-requests", "3"))
    contents = [json.loads(r.body)["messages"][0]["content"] for r in plan.measured]
    assert contents == ["one", "two", "one"]
    assert [r.max_tokens for r in plan.measured] == [3, 9, 3]
    with pytest.raises(SystemExit, match="line 3: the completions endpoint takes `prompt`"):
        make_plan(case("--base-model", "base", "--prompts", str(file), *CLOSED))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mix", "uniform", *CLOSED), "--mix uniform needs adapters"),
        (("--adapter", "a", *CLOSED), "adapters need a --mix"),
        (CLOSED, "--base-model is needed"),
        (("--base-model", "b", "--concurrency", "1"), "needs --concurrency and --num-requests"),
        (("--base-model", "b", "--mode", "open", "--rate", "1"), "needs --duration or --num"),
        (("--base-model", "b", *CLOSED, "--rate", "1"), "--rate is not for --mode closed"),
        (("--base-model", "b", *CLOSED, "--zipf-s", "1"), "--zipf-s is for --mix zipf"),
        (("--base-model", "b", *CLOSED, "--max-token-id", "9"), "is for --prompt-tokens"),
        ((*ZIPF, *CLOSED, "--adapter", "a"), "adapters come from one of"),
    ],
)
def test_contradictions_are_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        case(*arguments)
    assert message in capsys.readouterr().err


STREAM = (
    b': hello\r\n\r\ndata: {"a":1}\n\nevent: x\ndata:two\ndata: lines\r\n\r\nid: 3\n\ndata: cut'
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_do_not_depend_on_where_the_stream_is_cut(size: int) -> None:
    decoder = SseDecoder()
    chunks = [STREAM[i : i + size] for i in range(0, len(STREAM), size)]
    events = [data for chunk in chunks for data in decoder.feed(chunk)]
    assert events == [b'{"a":1}', b"two\nlines"]


def test_only_events_with_text_have_a_time() -> None:
    answer = Answer()
    for at, event in enumerate(
        [
            {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
            {"choices": [{"delta": {"reasoning_content": "so"}}]},
            {"choices": [{"delta": {"content": "yes"}, "finish_reason": None}], "usage": None},
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}},
        ]
    ):
        answer.take(json.dumps(event).encode(), float(at))
    assert (answer.text_times, answer.ended, answer.finished) == ([1.0, 2.0], 4.0, True)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (5, 4, None)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b'{"error": {"message": "no"}}', "stream_error"),
        (b'{"object": "error", "message": "no"}', "stream_error"),
        (b"{", "malformed"),
        (b"\xff", "malformed"),
        (b"[1]", "malformed"),
        (b'{"choices": [3]}', "malformed"),
        (b'{"usage": {"prompt_tokens": 1}}', "malformed"),
    ],
)
def test_events_that_fail_a_request(event: bytes, kind: str) -> None:
    with pytest.raises(Failure) as caught:
        Answer().take(event, 0.0)
    assert caught.value.kind == kind


@pytest.mark.parametrize("count", [1, 2, 10, 101])
def test_percentiles_are_numpys(count: int) -> None:
    rng = Random(count)
    values = sorted(rng.random() for _ in range(count))
    for percent in (0, 50, 90, 99, 100):
        assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))


def test_milliseconds() -> None:
    expected = {"mean": 2.5, "p50": 2.5, "p90": 3.7, "p99": 3.97, "max": 4.0}
    assert milliseconds([0.004, 0.001, 0.003, 0.002]) == expected
    assert milliseconds([]) is None


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
async def test_closed_loop(endpoint: str) -> None:
    fake = FakeOpenAI(answer_seconds=0.02)
    async with fake.running() as url:
        names = ("--adapter", "a", "--adapter", "b", "--mix", "uniform", "--warmup", "2")
        result = await measure(case(*names, *CLOSED, "--endpoint", endpoint, url=url))
    assert fake.most_at_once == 4
    assert [body["model"] for body in fake.bodies[:2]] == ["a", "b"]
    counts = Counter(body["model"] for body in fake.bodies[2:])
    assert result["adapters"] == {
        "distinct": 2,
        "requests_min": min(counts.values()),
        "requests_median": 6.0,
        "requests_max": max(counts.values()),
        "most_asked": counts,
    }
    assert (result["num_requests"], result["num_ok"], result["errors"]) == (12, 12, {})
    assert (result["prompt_tokens"], result["output_tokens"]) == (12 * NUM_PROMPT_TOKENS, 36)
    assert (result["num_short_answers"], result["num_without_usage"]) == (0, 0)
    assert result["output_tok_s"] == pytest.approx(36 / result["wall_s"], rel=0.05)
    assert 20 <= result["ttft_ms"]["p50"] <= result["e2e_ms"]["p50"]
    assert result["server"] == {"header": "fake/1", "owned_by": "fake"}
    assert result["warmup"]["num_ok"] == 2
    assert result["generator"]["send_lag_ms"] is None
    json.dumps(result)


async def test_failures_are_counted_and_the_run_goes_on() -> None:
    kinds = ["http_500", "stream_error", "malformed", "truncated", "connection", "timeout"]
    names = [part for kind in [*kinds, "fine", "no_usage"] for part in ("--adapter", kind)]
    options = (*names, "--mix", "uniform", "--timeout", "1.5", "--num-requests", "60")
    fake = FakeOpenAI()
    async with fake.running() as url:
        result = await measure(case(*options, "--concurrency", "30", url=url))
    counts = Counter(body["model"] for body in fake.bodies)
    num_ok = counts["fine"] + counts["no_usage"]
    assert result["errors"] == {kind: counts[kind] for kind in kinds}
    assert (result["num_ok"], result["num_failed"]) == (num_ok, 60 - num_ok)
    assert result["output_tokens"] == 3 * num_ok
    assert result["num_without_usage"] == counts["no_usage"]
    assert result["adapters"]["distinct"] == 2
    assert result["error_samples"]["http_500"] == "out of order"
    assert "adapter is gone" in result["error_samples"]["stream_error"]


async def test_no_server_at_all() -> None:
    result = await measure(case("--base-model", "base", *CLOSED))
    assert result["errors"] == {"connection": 12}
    assert result["ttft_ms"] is None
    assert "unknown" in result["server"]


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    fake = FakeOpenAI(answer_seconds=1.0)
    options = ("--base-model", "base", "--mode", "open", "--rate", "100", "--num-requests", "20")
    async with fake.running() as url:
        result = await measure(case(*options, url=url))
    assert fake.most_at_once == 20
    assert result["num_ok"] == 20
    assert result["wall_s"] < 10


async def test_latency_counts_from_the_scheduled_arrival() -> None:
    """Client and server share a loop that stands still once: what is due meanwhile is sent late."""
    options = ("--base-model", "base", "--mode", "open", "--rate", "200", "--num-requests", "40")
    async with FakeOpenAI(standstill=(5, 0.3)).running() as url:
        result = await measure(case(*options, url=url))
    assert result["num_ok"] == 40
    assert result["generator"]["send_lag_ms"]["max"] > 200
    assert result["generator"]["loop_lag_ms"]["max"] > 200
    assert result["ttft_ms"]["max"] >= result["generator"]["send_lag_ms"]["max"]
    assert result["e2e_ms"]["max"] >= result["ttft_ms"]["max"]


async def test_one_line_per_run_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs.jsonl"
    async with FakeOpenAI().running() as url:
        command = ["--url", url, "--base-model", "base", *CLOSED, "--json", str(file)]
        assert await asyncio.to_thread(bench_serve.main, command) == 0
    assert await asyncio.to_thread(bench_serve.main, command) == 1
    gc.unfreeze()  # what main() froze is this process's
    printed = capsys.readouterr().out
    assert file.read_text() == printed
    assert [json.loads(line)["num_ok"] for line in printed.splitlines()] == [12, 0]
