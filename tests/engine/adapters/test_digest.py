"""An adapter's digest is of what it computes: not of its place, its name or its base's name."""

import json
import shutil
from pathlib import Path

from peft_adapters import CONFIG_NAME, build_adapter, edit_config, edit_tensors
from read_adapters import digest_of
from tiny_llama import BASE


def test_the_digest_is_of_content_not_of_place(good_adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(good_adapter, tmp_path / "elsewhere")
    assert digest_of(tmp_path / "elsewhere") == digest_of(good_adapter)
    config = tmp_path / "elsewhere" / CONFIG_NAME
    reordered = dict(reversed(json.loads(config.read_text()).items()))
    config.write_text(json.dumps(reordered, indent=7))
    assert digest_of(tmp_path / "elsewhere") == digest_of(good_adapter)


def test_the_digest_changes_with_config_and_weights(good_adapter: Path) -> None:
    first = digest_of(good_adapter)
    edit_config(good_adapter, base_model_name_or_path="elsewhere", lora_dropout=0.3)
    assert digest_of(good_adapter) == first
    edit_config(good_adapter, lora_alpha=17)
    second = digest_of(good_adapter)
    edit_tensors(good_adapter, lambda tensors: {k: v * 1.5 for k, v in tensors.items()})
    assert len({first, second, digest_of(good_adapter)}) == 3


def test_the_name_of_the_base_is_no_part_of_what_an_adapter_is(tmp_path: Path) -> None:
    build_adapter(tmp_path, BASE, rank=4)
    digests = set()
    for name in ("org/one", "/two", None):
        edit_config(tmp_path, base_model_name_or_path=name)
        digests.add(digest_of(tmp_path))
    assert len(digests) == 1
