"""What is loaded before the server is ready, as far as the real server's test does not show it."""

import asyncio
from pathlib import Path

import pytest

from fake_engine import FakeEngine
from lorax_serve.ipc.messages import AdapterAction
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.errors import StartError
from lorax_serve.server.lifetime import _prepared
from lorax_serve.server.preload import preload
from lorax_serve.server.stop_signals import StopRequested, StopSignals
from wire import make_service


async def loaded(files: Path, **options: str) -> set[tuple[AdapterAction, str]]:
    engine = FakeEngine()
    service = make_service(files, engine)
    try:
        await preload(service.desk, ServerConfig(**options))
    finally:
        service.tokenizer.close()
    return {(action, ref.name) for action, ref in engine.commands if ref is not None}


async def test_names_are_loaded_or_pinned(wire_files: Path) -> None:
    assert await loaded(wire_files) == set()
    assert await loaded(wire_files, preload=" alice , team/ops,", pin="alice") == {
        (AdapterAction.PIN, "alice"),
        (AdapterAction.LOAD, "team/ops"),
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"preload": "alice,bob"}, "--preload bob: Model 'bob' does not exist."),
        ({"pin": "../alice"}, "--pin ../alice: "),
        (
            {"preload": "alicia"},
            "--preload alicia: Model 'alicia' does not exist. Names are",
        ),
        ({"preload": "alice", "preload_source": "ftp"}, "--preload alice: That `adapter_source`"),
    ],
)
async def test_the_one_that_fails_is_named(
    wire_files: Path, options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(StartError) as caught:
        await loaded(wire_files, **options)
    assert str(caught.value).startswith(sentence)
    assert ("Did you mean 'alice'?" in str(caught.value)) == (
        "alic" in sentence and "adapter_source" not in sentence
    )


async def test_a_signal_ends_the_preparation() -> None:
    signals = StopSignals(requested=asyncio.Event(), insisted=asyncio.Event())
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    asyncio.get_running_loop().call_later(0.01, signals.requested.set)
    with pytest.raises(StopRequested):
        await _prepared(forever(), signals)
    assert ended.is_set()
