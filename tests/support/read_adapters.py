"""Adapters of the small Llama as they are read and packed, to compare with what PEFT computes."""

from pathlib import Path

import torch

from lorax_serve.engine.adapters.format import read_adapter
from lorax_serve.engine.adapters.slab import slab_matrices
from peft_adapters import adapter_ref
from random_lora import pack
from tiny_llama import SITES


def packed_deltas(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """B A of every module, from the packed slab."""
    weights = read_adapter(adapter_ref(folder), SITES, max_rank=128)
    packed = pack(weights, SITES, dtype=dtype, transposed_a=True)
    return {
        module: b_t.float().t() @ a.float()
        for module, a, b_t in slab_matrices(packed.slab, packed.layout)
    }


def assert_same_deltas(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys() and ours
    for module, expected in theirs.items():
        error = (ours[module] - expected).abs().max() / expected.abs().max()
        assert error <= 1e-6, f"{module}: {error}"


def digest_of(folder: Path) -> str:
    return read_adapter(adapter_ref(folder), SITES, max_rank=64).digest
