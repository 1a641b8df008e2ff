"""Operators' commands on the real engine, over real files; only the link is fake."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine_harness import FRONTEND
from local_engine import LocalEngine, greedy
from lorax_serve.engine.adapters.slab import plan_slab
from lorax_serve.ipc.adapter_report import AdapterReport, AdapterState
from lorax_serve.ipc.messages import (
    Abort,
    AdapterAction,
    AdapterCommand,
    AdapterReply,
    RequestFailed,
)
from lorax_serve.ipc.sizes import show_size
from lorax_serve.ipc.types import AdapterRef, ErrorCode, RequestId
from peft_adapters import build_adapter
from tiny_models import build_tiny_model

NAMES = ("a", "b", "c", "d", "e")
PROMPT = [5, 6, 7]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    base = build_tiny_model("llama", folder / "model")
    for seed, name in enumerate(NAMES):
        build_adapter(folder / name, base, targets=["q_proj", "v_proj"], seed=seed)
    build_adapter(folder / "large", base, targets=["q_proj", "v_proj"], rank=64)
    (folder / "broken").mkdir()
    (folder / "broken" / "adapter_config.json").write_text("[]")
    return folder


@pytest.fixture(scope="module")
def slab_bytes(root: Path) -> int:
    with LocalEngine(root / "model") as engine:
        ask(engine, AdapterAction.LOAD, root / "a")
        return state(engine, root / "a").device_bytes


@pytest.fixture
def engine(root: Path, slab_bytes: int) -> Iterator[LocalEngine]:
    """Room for four adapters on the device, so for two pins."""
    with LocalEngine(root / "model", adapter_pool_bytes=4 * slab_bytes) as made:
        yield made
        made.parts.exchange.check_integrity()


def ref(folder: Path) -> AdapterRef:
    return AdapterRef(folder.name, str(folder), f"revision of {folder.name}")


def send(engine: LocalEngine, action: AdapterAction, folder: Path | None, name: str) -> None:
    adapter = None if folder is None else ref(folder)
    engine.link.inbox.append((FRONTEND, AdapterCommand(RequestId(name), action, adapter)))


def ask(
    engine: LocalEngine, action: AdapterAction, folder: Path | None = None
) -> AdapterReply | RequestFailed:
    """The one answer to a command; the loop goes round until it comes."""
    engine.link.others.clear()
    send(engine, action, folder, "command")
    deadline = time.monotonic() + 30
    while not engine.link.others:
        assert time.monotonic() < deadline, "no answer"
        engine._loaded.clear()
        if not engine.step() and not engine.link.others:
            assert engine._loaded.wait(timeout=30), "nobody woke the loop"
    [answer] = engine.link.others
    assert isinstance(answer, AdapterReply | RequestFailed)
    assert answer.request_id == "command"
    return answer


def report(engine: LocalEngine) -> AdapterReport:
    answer = ask(engine, AdapterAction.REPORT)
    assert isinstance(answer, AdapterReply) and answer.report is not None
    return answer.report


def state(engine: LocalEngine, folder: Path) -> AdapterState:
    [found] = [s for s in report(engine).adapters if ref(folder).revision in s.revisions]
    return found


def use(engine: LocalEngine, root: Path, *names: str) -> None:
    for name in names:
        request = greedy(name, PROMPT, num_tokens=2, adapter=root / name)
        [end] = engine.generate(request)[name].ends
        assert not isinstance(end, RequestFailed), end


def test_loaded_it_is_in_both_tiers(engine: LocalEngine, root: Path, slab_bytes: int) -> None:
    assert ask(engine, AdapterAction.LOAD, root / "a") == AdapterReply(RequestId("command"))
    found = state(engine, root / "a")
    assert (found.device_bytes, found.host_bytes) == (slab_bytes, slab_bytes)
    assert (found.rank, found.num_loads, found.is_pinned) == (8, 1, False)
    assert found.load_seconds > 0
    tiers = report(engine)
    assert (tiers.device.used_bytes, tiers.device.capacity_bytes) == (slab_bytes, 4 * slab_bytes)
    assert tiers.host.used_bytes == slab_bytes


def test_the_reason_is_the_loaders_own_and_is_told_every_time(
    engine: LocalEngine, root: Path
) -> None:
    for _ in range(2):
        answer = ask(engine, AdapterAction.LOAD, root / "broken")
        assert isinstance(answer, RequestFailed)
        assert answer.code is ErrorCode.ADAPTER_CORRUPT
        assert "'broken' cannot be used" in answer.message
    build_like(root / "broken-then-good", root / "a")
    assert isinstance(ask(engine, AdapterAction.LOAD, root / "broken-then-good"), AdapterReply)


def build_like(folder: Path, other: Path) -> None:
    folder.mkdir()
    for file in other.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def test_a_pin_outlasts_all_traffic_and_ends_with_unpin(engine: LocalEngine, root: Path) -> None:
    assert isinstance(ask(engine, AdapterAction.PIN, root / "a"), AdapterReply)
    for _ in range(3):
        use(engine, root, "b", "c", "d", "e")
        assert state(engine, root / "a").is_pinned
    assert state(engine, root / "a").num_device_evictions == 0
    assert sum(s.num_device_evictions for s in report(engine).adapters) > 0
    assert isinstance(ask(engine, AdapterAction.UNPIN, root / "a"), AdapterReply)
    assert not state(engine, root / "a").is_pinned
    for _ in range(8):
        use(engine, root, "b", "c", "d", "e")
    assert state(engine, root / "a").num_device_evictions == 1


def test_pinning_twice_is_one_pin(engine: LocalEngine, root: Path) -> None:
    for _ in range(2):
        assert isinstance(ask(engine, AdapterAction.PIN, root / "a"), AdapterReply)
    ask(engine, AdapterAction.UNPIN, root / "a")
    assert not state(engine, root / "a").is_pinned
    assert isinstance(ask(engine, AdapterAction.UNPIN, root / "a"), AdapterReply)
    assert engine.parts.exchange.pool.pinned_bytes == 0


def test_pins_leave_room_for_others(engine: LocalEngine, root: Path) -> None:
    for name in ("a", "b"):
        assert isinstance(ask(engine, AdapterAction.PIN, root / name), AdapterReply)
    refused = ask(engine, AdapterAction.PIN, root / "c")
    assert isinstance(refused, RequestFailed)
    assert refused.code is ErrorCode.INSUFFICIENT_STORAGE
    pool = engine.parts.exchange.pool
    for size in (pool.held_bytes // 2, pool.held_bytes, pool.capacity_bytes):
        assert show_size(size) in refused.message
    assert "--adapter-memory" in refused.message and len(refused.message) < 400
    use(engine, root, "c", "d", "e", "c")
    ask(engine, AdapterAction.UNPIN, root / "a")
    assert isinstance(ask(engine, AdapterAction.PIN, root / "c"), AdapterReply)


def test_what_does_not_fit_beside_pins_is_refused_and_does_not_wait_for_ever(
    root: Path, slab_bytes: int
) -> None:
    with LocalEngine(root / "model", adapter_pool_bytes=8 * slab_bytes) as engine:
        request = greedy("1", PROMPT, num_tokens=2, adapter=root / "large")
        [end] = engine.generate(request)["1"].ends
        assert not isinstance(end, RequestFailed), "alone it fits"
        use(engine, root, "a")
        ask(engine, AdapterAction.PIN, root / "a")
        request = greedy("2", PROMPT, num_tokens=2, adapter=root / "large")
        failure = engine.generate(request)["2"].failure
        assert failure.code is ErrorCode.ADAPTER_TOO_LARGE
        assert "pinned" in failure.message
        ask(engine, AdapterAction.UNPIN, root / "a")
        request = greedy("3", PROMPT, num_tokens=2, adapter=root / "large")
        assert not isinstance(engine.generate(request)["3"].ends[0], RequestFailed)
        engine.parts.exchange.check_integrity()


def test_an_aborted_command_is_answered_by_nobody(engine: LocalEngine, root: Path) -> None:
    send(engine, AdapterAction.PIN, root / "a", "left")
    engine.abort("left")
    engine.step()
    use(engine, root, "a")
    assert engine.link.others == []
    assert not any(s.is_pinned for s in report(engine).adapters)


def test_requests_go_on_while_an_adapter_loads(engine: LocalEngine, root: Path) -> None:
    send(engine, AdapterAction.LOAD, root / "a", "loading")
    results = engine.generate(greedy("base", PROMPT, num_tokens=4))
    assert len(results["base"].token_ids) == 4


def test_the_same_bytes_under_another_name_are_not_loaded_again(
    engine: LocalEngine, root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "a", tmp_path / "copy")
    for folder in (root / "a", tmp_path / "copy"):
        assert isinstance(ask(engine, AdapterAction.LOAD, folder), AdapterReply)
    found = state(engine, tmp_path / "copy")
    assert found == state(engine, root / "a") and found.num_loads == 1


def test_a_report_of_thousands_comes_in_pieces_beside_a_request(
    engine: LocalEngine, root: Path
) -> None:
    exchange = engine.parts.exchange
    layout = plan_slab((), {}, transposed_a=False)
    for number in range(3000):
        digest = f"{number:04}"
        exchange.tallies.loaded(digest, replace(layout, ranks=(8,)), 0.0)
        exchange.know(AdapterRef(digest, f"/{digest}", f"revision {digest}"), digest)
    engine.link.inbox.append((FRONTEND, greedy("beside", PROMPT, num_tokens=8)))
    send(engine, AdapterAction.REPORT, None, "report")
    num_steps = 0
    while not engine.link.others:
        engine.step()
        num_steps += 1
    assert num_steps > 8, "more than the request took"
    [answer] = engine.link.others
    assert isinstance(answer, AdapterReply) and answer.report is not None
    assert [s.digest for s in answer.report.adapters] == [f"{n:04}" for n in range(3000)]
    assert all(s.revisions == (f"revision {s.digest}",) for s in answer.report.adapters)


def test_an_aborted_report_is_not_sent(engine: LocalEngine) -> None:
    for number in range(2000):
        exchange = engine.parts.exchange
        exchange.know(AdapterRef("x", f"/{number}", "1"), f"{number}")
    send(engine, AdapterAction.REPORT, None, "report")
    engine.step()
    assert engine.core._desk.is_busy
    engine.link.inbox.append((FRONTEND, Abort(RequestId("report"))))
    engine.step()
    assert not engine.core._desk.is_busy and not engine.link.others
