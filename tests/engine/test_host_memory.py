"""What the host has to give: the machine's word, and the control group's."""

from pathlib import Path

import pytest
import torch

from local_engine import LocalEngine
from lorax_serve.engine.device_defaults import host_adapter_bytes, max_loading
from lorax_serve.engine.errors import ModelRefused
from lorax_serve.engine.host_memory import available_bytes
from lorax_serve.ipc.config import EngineConfig
from tiny_models import build_tiny_model

MIB = 2**20
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  1024 kB\nMemFree: 3 kB\n")
    return tmp_path


def group(folder: Path, limit: str) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("700000\n")
    (folder / "memory.stat").write_text("anon 1\ninactive_file 50000\nactive_file 50000\nslab 7\n")
    return folder


def test_the_tighter_of_machine_and_group_counts(proc: Path, tmp_path: Path) -> None:
    assert available_bytes(proc, tmp_path / "no groups here") == MIB
    assert available_bytes(proc, group(tmp_path, "max")) == MIB
    assert available_bytes(proc, group(tmp_path, "900000")) == 300_000
    assert available_bytes(proc, group(tmp_path, "500000")) == 0
    assert available_bytes(proc, group(tmp_path, "9000000")) == MIB


def test_this_machine_has_some() -> None:
    assert available_bytes() > 0


def config(**fields: int) -> EngineConfig:
    return EngineConfig(endpoint="", model_path="", **fields)


def test_by_default_the_host_tier_takes_a_share_with_a_ceiling() -> None:
    assert host_adapter_bytes(config(), CPU, 400 * MIB) == 100 * MIB
    assert host_adapter_bytes(config(), CPU, 2**40) == 512 * MIB
    assert host_adapter_bytes(config(), GPU, 2**40) == 32 * 1024 * MIB


def test_more_than_there_is_is_refused_with_the_sums() -> None:
    asked = config(host_adapter_bytes=500 * MIB)
    assert host_adapter_bytes(asked, GPU, 500 * MIB) == 500 * MIB
    with pytest.raises(ModelRefused, match=r"--host-adapter-memory of 500 MiB.* 499 MiB"):
        host_adapter_bytes(asked, GPU, 499 * MIB)


@pytest.mark.parametrize(
    ("field", "option"),
    [("adapter_pool_bytes", "--adapter-memory"), ("kv_cache_bytes", "--kv-cache-memory")],
)
def test_what_a_cpu_has_not_is_refused_before_it_is_asked_for(
    tmp_path: Path, field: str, option: str
) -> None:
    build_tiny_model("llama", tmp_path)
    with pytest.raises(ModelRefused, match=rf"^{option} of \d+ MiB does not fit"):
        LocalEngine(tmp_path, **{field: 2**50})


def test_a_gpu_leaves_more_threads_to_the_loads() -> None:
    assert (max_loading(config(), CPU), max_loading(config(), GPU)) == (2, 8)
    assert max_loading(config(max_loading=3), GPU) == 3
