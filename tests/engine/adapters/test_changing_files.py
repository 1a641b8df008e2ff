"""Files that change while they are read: noticed, whatever was done to them."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lorax_serve.engine.adapters import format as format_module
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import ErrorCode
from peft_adapters import CONFIG_NAME, WEIGHTS_NAME, adapter_ref
from tiny_llama import SITES


@pytest.mark.parametrize("victim", [CONFIG_NAME, WEIGHTS_NAME])
@pytest.mark.parametrize("harm", ["truncate", "replace", "delete"])
def test_files_that_change_under_our_hands_are_noticed(
    victim: str, harm: str, good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_read_weights = format_module._read_weights

    def read_then_harm(folder: Path, *options: Any) -> Any:
        content = real_read_weights(folder, *options)
        file = folder / victim
        if harm == "truncate":
            file.write_bytes(file.read_bytes()[:20])
        elif harm == "replace":
            shutil.copy(file, folder / "new")  # beside the old one: another inode
            (folder / "new").replace(file)
        else:
            file.unlink()
        return content

    monkeypatch.setattr(format_module, "_read_weights", read_then_harm)
    with pytest.raises(AdapterRejected, match="changed while it was being read") as caught:
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=64)
    assert caught.value.code is ErrorCode.ADAPTER_CHANGED


def test_a_file_that_shrinks_inside_the_read_is_noticed(
    good_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_fstat = os.fstat
    weights = good_adapter / WEIGHTS_NAME

    def fstat_then_truncate(descriptor: int) -> os.stat_result:
        status = real_fstat(descriptor)
        if status.st_ino == weights.stat().st_ino and status.st_size > 100:
            os.truncate(weights, 100)
        return status

    monkeypatch.setattr("os.fstat", fstat_then_truncate)
    with pytest.raises(AdapterRejected, match="changed while it was being read"):
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=64)
