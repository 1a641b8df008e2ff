"""What `lorax-serve adapters check` says of a folder that cannot be served."""

import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import msgspec
import pytest

from lorax_serve.engine import check_adapter
from lorax_serve.ipc.adapter_check import AdapterCheck
from lorax_serve.ipc.config import EngineConfig
from peft_adapters import build_adapter, edit_config
from tiny_models import build_tiny_model


def test_reasons_alike_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = build_tiny_model("llama", tmp_path / "model")
    build_adapter(tmp_path / "bad", base, targets=["q_proj", "v_proj"], rank=8)
    edit_config(tmp_path / "bad", r=4)
    check = AdapterCheck(
        str(tmp_path / "bad"), EngineConfig(endpoint="", model_path=str(tmp_path / "model"))
    )
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(msgspec.json.encode(check) + b"\n")))
    assert check_adapter.main() == check_adapter.EXIT_REFUSED
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path / 'bad'} cannot be served:"
    assert [line.split(" has ")[0] for line in lines] == [
        "  - model.layers.*.self_attn.q_proj",
        "  - model.layers.*.self_attn.v_proj",
    ]
    assert all(line.endswith("adapter_config.json says 4 (2 layers)") for line in lines)
