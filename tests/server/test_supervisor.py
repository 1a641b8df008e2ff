"""Real engine processes (a stand-in without a model), ended in every way there is."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import processes
import stub_engine
from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.messages import Generate, LoadProgress
from lorax_serve.ipc.types import (
    ErrorCode,
    FinishReason,
    RequestId,
    SamplingParams,
    StopConditions,
)
from lorax_serve.server import child_process
from lorax_serve.server.engine_process import engine_environment
from lorax_serve.server.errors import EngineLost, ServeError, StartError
from lorax_serve.server.runtime_dir import runtime_dir
from lorax_serve.server.stop_signals import StopRequested, StopSignals
from lorax_serve.server.supervisor import EngineLaunch, RunningEngine, running_engine


@pytest.fixture
def parent() -> Iterator[Path]:
    """Where engines get their folders; empty again when the test is over."""
    with runtime_dir(Path("/tmp")) as folder:  # tmp_path may be too long
        before = sorted(folder.iterdir())
        yield folder
        assert sorted(folder.iterdir()) == before


def launch(parent: Path, command: Sequence[str]) -> EngineLaunch:
    return EngineLaunch(
        config=lambda endpoint: EngineConfig(endpoint=endpoint, model_path="/nowhere"),
        environment=engine_environment(os.environ),
        runtime_parent=parent,
        command=command,
    )


@asynccontextmanager
async def running(
    parent: Path, behaviour: str = stub_engine.SERVES, signals: StopSignals | None = None
) -> AsyncIterator[RunningEngine]:
    plan = launch(parent, stub_engine.command(behaviour))
    async with running_engine(plan, lambda progress: None, signals or StopSignals()) as engine:
        yield engine


def request(name: str, first_token: int = 10) -> Generate:
    return Generate(
        RequestId(name), [first_token], SamplingParams(), StopConditions(max_new_tokens=3)
    )


async def consume(engine: RunningEngine, message: Generate, begun: asyncio.Event) -> None:
    async for _ in engine.client.generate(message):
        begun.set()


@asynccontextmanager
async def hanging(engine: RunningEngine, count: int) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Requests that have had one token and wait for the next."""
    events = [asyncio.Event() for _ in range(count)]
    tasks = [
        asyncio.create_task(consume(engine, request(f"h{index}", stub_engine.HANG), begun))
        for index, begun in enumerate(events)
    ]
    await asyncio.gather(*(begun.wait() for begun in events))
    yield tasks


async def test_an_engine_serves_and_leaves_nothing_behind(parent: Path) -> None:
    reports: list[LoadProgress] = []
    plan = launch(parent, stub_engine.command())
    async with running_engine(plan, reports.append, StopSignals()) as engine:
        assert engine.client.info == stub_engine.INFO
        assert engine.client.is_ready
        [folder] = [path for path in parent.iterdir() if path.is_dir()]
        assert folder.stat().st_mode & 0o777 == 0o700
        events = [event async for event in engine.client.generate(request("r"))]
        assert [event.token_ids for event in events] == [[11], [12], [13]]
        assert events[-1].finish_reason is FinishReason.LENGTH
        with pytest.raises(ServeError, match="No such luck"):
            await consume(engine, request("f", stub_engine.FAIL), asyncio.Event())
    assert reports == [LoadProgress("Loading weights", 0.5)]
    assert not processes.is_running(engine.pid)


async def test_a_killed_engine_fails_every_open_request_with_engine_lost(parent: Path) -> None:
    async with running(parent) as engine, hanging(engine, 8) as tasks:
        os.kill(engine.pid, signal.SIGKILL)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [EngineLost] * 8
        assert await engine.lost == "The engine was killed by SIGKILL."
        assert not engine.client.is_ready
        with pytest.raises(ServeError) as caught:
            await consume(engine, request("late"), asyncio.Event())
        assert caught.value.code is ErrorCode.ENGINE_LOST
        assert not isinstance(caught.value, EngineLost)  # it may be tried again


async def test_an_engine_that_babbles_is_lost(parent: Path) -> None:
    async with running(parent, stub_engine.BABBLES) as engine:
        with pytest.raises(EngineLost):
            await consume(engine, request("r"), asyncio.Event())
        assert "no message" in await engine.lost
    assert not processes.is_running(engine.pid)


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        (stub_engine.CRASHES, "The engine ended with exit code 3 while starting"),
        (stub_engine.REFUSES, stub_engine.REFUSAL),
        (stub_engine.OTHER_BUILD, "protocol another"),
    ],
)
async def test_a_failed_start_says_why_and_leaves_nothing_behind(
    parent: Path, behaviour: str, sentence: str
) -> None:
    with pytest.raises(StartError, match=sentence):
        async with running(parent, behaviour):
            pytest.fail("the engine is not ready")
    assert processes.children(os.getpid()) == []


async def test_a_command_that_cannot_be_run_is_a_start_error(parent: Path) -> None:
    plan = launch(parent, ["/no/such/engine"])
    with pytest.raises(StartError, match="cannot be started"):
        async with running_engine(plan, lambda progress: None, StopSignals()):
            pytest.fail("there is no engine")


async def test_a_signal_while_loading_ends_the_start(parent: Path) -> None:
    signals = StopSignals()
    plan = launch(parent, stub_engine.command(stub_engine.LOADS_FOREVER))
    with pytest.raises(StopRequested):
        async with running_engine(plan, lambda progress: signals.on_signal(), signals):
            pytest.fail("the engine is not ready")
    assert processes.children(os.getpid()) == []


async def test_cancelling_the_start_leaves_nothing_behind(parent: Path) -> None:
    loading = asyncio.Event()

    async def start() -> None:
        plan = launch(parent, stub_engine.command(stub_engine.LOADS_FOREVER))
        async with running_engine(plan, lambda progress: loading.set(), StopSignals()):
            pytest.fail("the engine is not ready")

    starting = asyncio.create_task(start())
    await loading.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert processes.children(os.getpid()) == []


async def test_an_error_inside_the_block_ends_the_engine(parent: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with running(parent):
            raise ZeroDivisionError
    assert processes.children(os.getpid()) == []


async def test_a_deaf_engine_is_killed_in_the_end(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "TERM_SECONDS", 0.2)
    async with running(parent, stub_engine.DEAF) as engine:
        pass
    assert not processes.is_running(engine.pid)


async def test_insisting_kills_a_deaf_engine_at_once(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "TERM_SECONDS", 3600.0)
    signals = StopSignals()
    async with running(parent, stub_engine.DEAF, signals) as engine:
        signals.on_signal()
        signals.on_signal()
    assert not processes.is_running(engine.pid)


async def test_an_aborted_request_is_none_of_the_open_ones(parent: Path) -> None:
    async with running(parent) as engine, hanging(engine, 3) as tasks:
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert engine.client.num_open == 2
        engine.client.fail_all(ServeError(ErrorCode.SERVER_SHUTDOWN, "Going."))
        outcomes = await asyncio.gather(tasks[0], tasks[2], return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["Going."] * 2
