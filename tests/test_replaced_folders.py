"""Folders that are replaced while they are served: every token comes from the files that its
request was resolved to, or the request fails and says so."""

import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from exchange_cases.driver import LocalEngine
from exchange_cases.model import adapter_bytes, model_config, random_model, write_adapter

from lorax_serve.engine.adapters import format as format_module
from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.ipc.folder_state import folder_state
from lorax_serve.ipc.messages import RequestFailed, StepEvents, ToFrontend
from lorax_serve.ipc.types import AdapterRef, ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.local import LocalAdapters

PROMPT = list(range(3, 35))
SEEDS = (100, 101, 102)


@pytest.fixture(scope="module")
def model() -> Iterator[Decoder]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield random_model(model_config(hidden_size=64, num_layers=2))
    torch.set_num_threads(num_threads)


@pytest.fixture
def versions(model: Decoder, tmp_path: Path) -> dict[int, Path]:
    """The versions of one adapter, each in a folder that may be moved to where it is served."""
    folders = {seed: tmp_path / "versions" / str(seed) for seed in SEEDS}
    for seed, folder in folders.items():
        write_adapter(folder, model, seed, revision="")
    return folders


@pytest.fixture
def served(tmp_path: Path) -> LocalAdapters:
    (tmp_path / "adapters").mkdir()
    return LocalAdapters(tmp_path / "adapters", allow_absolute=False)


class Engine(LocalEngine):
    """Requests may fail."""

    def __init__(self, model: Decoder, num_device: int, num_host: int, **config: object) -> None:
        self.failures: dict[str, ErrorCode] = {}
        size = adapter_bytes(model)
        sizes = {"adapter_pool_bytes": num_device * size, "host_adapter_bytes": num_host * size}
        super().__init__(model, **sizes, **config)

    def send(self, frontend: bytes, message: ToFrontend) -> bool:
        if isinstance(message, StepEvents):
            failed = [event for event in message.events if isinstance(event, RequestFailed)]
            for event in failed:
                self.failures[event.request_id] = event.code
                self.trips[event.request_id].has_ended = True
            message = StepEvents([event for event in message.events if event not in failed])
        return super().send(frontend, message)


def solo(model: Decoder, ref: AdapterRef, num_tokens: int) -> list[int]:
    with Engine(model, 2, 2) as alone:
        alone.submit("alone", PROMPT, ref, num_tokens=num_tokens)
        alone.run(lambda: False)
        return alone.trips["alone"].token_ids


def ref_of(folder: Path) -> AdapterRef:
    return AdapterRef(folder.name, str(folder), folder_state(folder), is_writable=True)


def read(model: Decoder, ref: AdapterRef) -> str:
    return read_adapter(ref, tuple(model.sites), max_rank=64).digest


# -- what is read is what the ref means


def test_a_folder_replaced_before_it_is_read_is_refused(
    model: Decoder, versions: dict[int, Path], served: LocalAdapters, tmp_path: Path
) -> None:
    place = tmp_path / "adapters" / "moving"
    shutil.copytree(versions[100], place)
    ref = served.resolve("moving")
    assert read(model, ref) == read(model, ref_of(versions[100]))
    shutil.rmtree(place)
    shutil.copytree(versions[101], place)
    with pytest.raises(AdapterRejected) as caught:
        read(model, ref)
    assert caught.value.code is ErrorCode.ADAPTER_CHANGED
    assert read(model, served.resolve("moving")) == read(model, ref_of(versions[101]))


def test_what_is_wrong_with_other_files_is_not_told_of_those_that_were_meant(
    model: Decoder, versions: dict[int, Path], served: LocalAdapters, tmp_path: Path
) -> None:
    place = tmp_path / "adapters" / "moving"
    shutil.copytree(versions[100], place)
    ref = served.resolve("moving")
    weights = place / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(AdapterRejected) as caught:
        read(model, ref)
    assert caught.value.code is ErrorCode.ADAPTER_CHANGED
    with pytest.raises(AdapterRejected) as caught:
        read(model, served.resolve("moving"))
    assert caught.value.code is ErrorCode.ADAPTER_CORRUPT


def test_a_replacement_that_is_rolled_back_is_noticed(
    model: Decoder,
    versions: dict[int, Path],
    served: LocalAdapters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another folder lies there just as long as the files are read and looked at again."""
    place, away = tmp_path / "adapters" / "moving", tmp_path / "away"
    versions[100].rename(place)
    ref = served.resolve("moving")
    read_config, was_replaced = format_module._read_config, format_module._was_replaced

    def swap_and_read(folder: Path, *options: object) -> object:
        place.rename(away)
        versions[101].rename(place)
        return read_config(folder, *options)  # type: ignore[arg-type]

    def roll_back_and_look(*args: object) -> bool:
        if away.exists():
            place.rename(versions[101])
            away.rename(place)
        return was_replaced(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(format_module, "_read_config", swap_and_read)
        patch.setattr(format_module, "_was_replaced", roll_back_and_look)
        with pytest.raises(AdapterRejected) as caught:
            read(model, ref)
    assert caught.value.code is ErrorCode.ADAPTER_CHANGED
    assert served.resolve("moving") == ref, "the roll-back left no trace"
    assert read(model, ref) == read(model, msgspec.structs.replace(ref, is_writable=False))


def test_other_files_in_the_folder_may_change(
    model: Decoder, versions: dict[int, Path], served: LocalAdapters, tmp_path: Path
) -> None:
    place = tmp_path / "adapters" / "moving"
    shutil.copytree(versions[100], place)
    ref = served.resolve("moving")
    (place / "README.md").write_text("Trained on Sunday.")
    assert read(model, ref) == read(model, ref_of(versions[100]))


# -- in flight


def test_no_token_comes_from_other_weights_while_folders_move(
    model: Decoder, versions: dict[int, Path], served: LocalAdapters, tmp_path: Path
) -> None:
    """Versions lie under one name by turns, for a moment each; adapters are read all the time, as
    one slot and one host slab have room for one of them."""
    expected = {}
    for folder in versions.values():
        ref = ref_of(folder)
        expected[ref.revision] = solo(model, ref, 6)  # moving a folder leaves its files' states
    assert len({tuple(tokens) for tokens in expected.values()}) == len(SEEDS)
    place = tmp_path / "adapters" / "moving"
    stop = threading.Event()

    def move() -> None:
        rng = random.Random(0)
        while not stop.is_set():
            folder = versions[rng.choice(SEEDS)]
            folder.rename(place)
            time.sleep(rng.choice((0.0, 0.002, 0.01)))
            place.rename(folder)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        with Engine(model, 1, 1) as engine:
            meant = submit_resolved(engine, served)
            engine.run(lambda: False)
    finally:
        stop.set()
        mover.join()
    outcomes = {"right": 0, "changed": 0}
    for name, revision in meant.items():
        if name in engine.failures:
            may_be = {ErrorCode.ADAPTER_CHANGED, ErrorCode.MODEL_NOT_FOUND}
            assert engine.failures[name] in may_be and not engine.trips[name].token_ids
            outcomes["changed"] += 1
        else:
            assert engine.trips[name].token_ids == expected[revision], name
            outcomes["right"] += 1
    assert min(outcomes.values()) > 3, outcomes


def submit_resolved(engine: Engine, served: LocalAdapters) -> dict[str, str]:
    """Requests for whatever lies there, between steps, until some have been too late; by name the
    revision that each means."""
    meant: dict[str, str] = {}
    while len(meant) < 90 or (len(engine.failures) <= 3 and len(meant) < 2000):
        try:
            ref = served.resolve("moving")
        except ServeError:
            continue  # on its way
        name = str(len(meant))
        meant[name] = ref.revision
        engine.submit(name, PROMPT, ref, num_tokens=6)
        for _ in range(3):
            engine.step()
    return meant


def test_a_preempted_sequence_goes_on_with_the_weights_it_began_with(
    model: Decoder, versions: dict[int, Path], served: LocalAdapters, tmp_path: Path
) -> None:
    """Its folder is replaced meanwhile, and others take the room of its adapter."""
    place = tmp_path / "adapters" / "moving"
    shutil.copytree(versions[100], place)
    moving = served.resolve("moving")
    expected = solo(model, moving, 60)
    others = [
        write_adapter(tmp_path / f"other-{seed}", model, seed, revision="1") for seed in range(6)
    ]
    with Engine(model, 2, 3, kv_cache_bytes=num_cache_bytes(model, 130)) as engine:
        engine.submit("first", PROMPT, others[0], num_tokens=90)
        engine.submit("preempted", PROMPT, moving, num_tokens=60)
        step_until(engine, lambda: engine.parts.scheduler.num_running == 2)
        step_until(engine, lambda: engine.parts.scheduler.num_running == 1)
        assert 0 < len(engine.trips["preempted"].token_ids) < 60, "preempted in its middle"
        shutil.rmtree(place)
        shutil.copytree(versions[101], place)
        for ref in others[1:]:
            visit(engine.parts.exchange, ref)
        engine.run(lambda: False)
        assert engine.failures == {}
        assert engine.trips["preempted"].token_ids == expected
        engine.parts.scheduler.check_integrity()
        engine.parts.exchange.check_integrity()
        assert engine.parts.exchange.store.pinned_bytes == 0
        assert engine.parts.exchange.pool.pinned_bytes == 0


def visit(exchange: AdapterExchange, ref: AdapterRef) -> None:
    """Bring the adapter to the device, in somebody's place, for nobody."""
    exchange.prefetch(ref)
    deadline = time.monotonic() + 30
    while not exchange.is_settled(ref):
        assert time.monotonic() < deadline
        exchange.poll()
        exchange.stage(dict.fromkeys([ref]))
    exchange.cancel(ref)


def step_until(engine: Engine, condition: object) -> None:
    for _ in range(3000):
        if condition():  # type: ignore[operator]
            return
        if not engine.step():
            engine.wait(0.001)
    raise AssertionError("it never came to that")


def num_cache_bytes(model: Decoder, num_tokens: int) -> int:
    config = model.config
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4
    return num_tokens * per_token
