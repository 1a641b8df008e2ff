"""Adapters that cannot be used are refused, with a code and by the names of what offends."""

import math
from pathlib import Path

import pytest
import torch

from bad_adapters import BAD_ADAPTERS, MAX_RANK, BadAdapter
from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.errors import AdapterRejected
from lorax_serve.ipc.types import ErrorCode
from peft_adapters import WEIGHTS_NAME, adapter_ref, build_adapter, edit_config, edit_tensors
from read_adapters import packed_deltas
from tiny_llama import BASE, SITES, lora_sites, tiny_llama


@pytest.mark.parametrize(
    "stranger", ["layers.9.mlp.up_proj", "model.layers.0.mlp.up_proj", "lm_head"]
)
def test_names_with_and_without_their_beginning_do_not_mix(stranger: str, tmp_path: Path) -> None:
    targets = ["q_proj", "up_proj"]
    build_adapter(tmp_path, BASE.model, task_type="FEATURE_EXTRACTION", targets=targets)
    edit_tensors(
        tmp_path,
        lambda tensors: {
            k.replace("layers.0.mlp.up_proj", stranger): v for k, v in tensors.items()
        },
    )
    with pytest.raises(AdapterRejected, match="is not a linear of this model") as caught:
        read_adapter(adapter_ref(tmp_path), SITES, max_rank=MAX_RANK)
    assert caught.value.code is ErrorCode.ADAPTER_INCOMPATIBLE


@pytest.mark.parametrize("bad", BAD_ADAPTERS, ids=lambda bad: bad.name)
def test_bad_adapters_are_refused(bad: BadAdapter, good_adapter: Path) -> None:
    ref = adapter_ref(good_adapter, name="poet")
    read_adapter(ref, SITES, max_rank=MAX_RANK)
    bad.spoil(good_adapter)
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(ref, SITES, max_rank=MAX_RANK)
    assert caught.value.code is bad.code
    assert "'poet'" in caught.value.message
    assert bad.says in caught.value.message
    assert str(good_adapter) not in caught.value.message
    assert not (good_adapter / "owned").exists()


def test_every_offender_is_counted_and_as_many_shown_as_fit(good_adapter: Path) -> None:
    edit_tensors(good_adapter, lambda tensors: {name: torch.ones(3, 3) for name in tensors})
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=MAX_RANK)
    assert len(caught.value.reasons) == 8  # A and B of q and v in two layers
    assert caught.value.message.count("(2 layers)") == 3
    assert caught.value.message.endswith("; and 1 more.")


def test_long_names_from_the_file_are_cut(good_adapter: Path) -> None:
    edit_tensors(good_adapter, lambda tensors: {**tensors, "x" * 5000: torch.ones(1)})
    with pytest.raises(AdapterRejected, match="xxx…") as caught:
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=MAX_RANK)
    assert len(caught.value.message) < 400


def test_another_base_is_refused(good_adapter: Path) -> None:
    wider = lora_sites(tiny_llama(hidden_size=96))
    with pytest.raises(AdapterRejected, match=r"expected \(8, 96\)"):
        read_adapter(adapter_ref(good_adapter), wider, max_rank=MAX_RANK)
    shallower = lora_sites(tiny_llama(num_hidden_layers=1))
    with pytest.raises(AdapterRejected, match=r"layers\.1.* is not a linear"):
        read_adapter(adapter_ref(good_adapter), shallower, max_rank=MAX_RANK)


def test_a_file_that_no_adapter_could_fill_is_not_read(good_adapter: Path) -> None:
    with open(good_adapter / WEIGHTS_NAME, "r+b") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(AdapterRejected) as caught:
        read_adapter(adapter_ref(good_adapter), SITES, max_rank=MAX_RANK)
    assert caught.value.code is ErrorCode.ADAPTER_TOO_LARGE


def test_overflow_in_the_served_type_is_refused(good_adapter: Path) -> None:
    edit_config(good_adapter, lora_alpha=1e7)
    assert all(math.isfinite(d.abs().max()) for d in packed_deltas(good_adapter).values())
    with pytest.raises(AdapterRejected, match="overflows float16") as caught:
        packed_deltas(good_adapter, torch.float16)
    assert caught.value.code is ErrorCode.ADAPTER_NOT_FINITE
    edit_config(good_adapter, lora_alpha=1e300)
    with pytest.raises(AdapterRejected, match="overflows float32"):
        packed_deltas(good_adapter)
