"""An adapter made for another base says so, where that explains why it does not fit."""

from pathlib import Path

import pytest

from bad_adapters import MAX_RANK
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import ErrorCode
from peft_adapters import adapter_ref, build_adapter, edit_config
from tiny_llama import BASE, SITES, tiny_llama


@pytest.mark.parametrize(
    ("made_for", "served", "is_named"),
    [
        ("org/Big-8B", "org/tiny", True),
        ("/data/models/Big-8B/", "org/tiny", True),
        ("org/tiny", "org/tiny", False),
        ("/home/somebody/Tiny/", "org/tiny", False),
        ("somebody/tiny@main", "tiny", False),
        (None, "org/tiny", False),
        (7, "org/tiny", False),
        ("org/Big-8B", "", False),
    ],
)
def test_an_adapter_of_another_base_is_told_by_both_names(
    tmp_path: Path, made_for: object, served: str, is_named: bool
) -> None:
    build_adapter(tmp_path, tiny_llama(hidden_size=96), rank=4, targets=["q_proj"])
    edit_config(tmp_path, base_model_name_or_path=made_for)
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(adapter_ref(tmp_path), SITES, max_rank=MAX_RANK, base_model=served)
    assert caught.value.code is ErrorCode.ADAPTER_INCOMPATIBLE
    first = f"it was made for {made_for!r}, and this server serves {served!r}"
    assert (caught.value.reasons[0] == first) == is_named
    assert "has shape" in caught.value.reasons[-1]


@pytest.mark.parametrize("has_layers_too_many", [False, True])
def test_the_base_is_to_blame_for_modules_it_lacks_and_for_nothing_else(
    tmp_path: Path, has_layers_too_many: bool
) -> None:
    base = tiny_llama(num_hidden_layers=9) if has_layers_too_many else BASE
    build_adapter(tmp_path, base, rank=4, targets=["q_proj"])
    edit_config(tmp_path, base_model_name_or_path="org/other")
    if not has_layers_too_many:
        read_adapter(adapter_ref(tmp_path), SITES, max_rank=MAX_RANK, base_model="org/served")
        edit_config(tmp_path, r=5)
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(adapter_ref(tmp_path), SITES, max_rank=MAX_RANK, base_model="org/served")
    assert ("it was made for" in caught.value.message) == has_layers_too_many
