"""Which folders are listed as models."""

from pathlib import Path

import pytest

from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.sources.servable import servable_names

WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize(
    ("config", "weights", "is_listed"),
    [
        (b'{"peft_type": "LORA", "r": 8}', WEIGHTS, True),
        (b'{"r": 8}', WEIGHTS, True),
        (b'{"peft_type": "LORA"}', "adapter_model.bin", False),
        (b'{"peft_type": "LORA"}', "adapter_model-00001-of-00002.safetensors", False),
        (b'{"peft_type": "PROMPT_TUNING"}', WEIGHTS, False),
        (b"{}", WEIGHTS, False),
        (b"[]", WEIGHTS, False),
        (b"", WEIGHTS, False),
        (b'{"peft_type": "\xff"}', WEIGHTS, False),
        (b"[" * 10**5, WEIGHTS, False),
        (b'{"peft_type": "LORA"}' + b" " * 2**20, WEIGHTS, False),
        (b'{"x": "' + b"x" * 2**21 + b'"}', WEIGHTS, False),
    ],
)
def test_only_what_looks_servable(
    tmp_path: Path, config: bytes, weights: str, is_listed: bool
) -> None:
    for folder in ("one", "team/two", "three/model_weights"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "adapter_config.json").write_bytes(config)
        (tmp_path / folder / weights).touch()
    adapters = LocalAdapters(tmp_path, allow_absolute=False)
    assert adapters.list() == ["one", "team/two", "three"]
    assert servable_names(adapters) == (adapters.list() if is_listed else [])


def test_a_folder_without_a_config_or_weights_is_not_listed(tmp_path: Path) -> None:
    for name in ("empty", "config", "weights", "vanished"):
        (tmp_path / name).mkdir()
    (tmp_path / "config" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "weights" / WEIGHTS).touch()
    (tmp_path / "vanished" / "adapter_config.json").symlink_to("nowhere")
    assert servable_names(LocalAdapters(tmp_path, allow_absolute=False)) == []
