"""Folders of good adapters; for the tests of the exchange, a bench and a gate before its reads."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from exchange_bench import NAMES, Bench, GatedReader, adapter_bytes
from lorax_serve.engine.adapters import reader as reader_module
from peft_adapters import build_adapter
from tiny_llama import BASE


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(NAMES):
        build_adapter(root / name, BASE, seed=seed, rank=4, targets=["q_proj", "down_proj"])
    return root


@pytest.fixture
def folders(originals: Path, tmp_path: Path) -> Path:
    shutil.copytree(originals, tmp_path / "adapters")
    return tmp_path / "adapters"


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> GatedReader:
    reader = GatedReader()
    monkeypatch.setattr(reader_module, "read_adapter", reader)
    return reader


@pytest.fixture
def bench(originals: Path) -> Iterator[Bench]:
    bench = Bench(capacity_bytes=2 * adapter_bytes(originals))
    yield bench
    bench.exchange.close()
    bench.exchange.check_integrity()
    assert not [t for t in threading.enumerate() if t.name.startswith("adapter-loader")]


@pytest.fixture
def good_adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    build_adapter(folder, BASE, targets=["q_proj", "v_proj"])
    return folder
