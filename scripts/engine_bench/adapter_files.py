"""Random PEFT adapters as folders, many of them in little time: one is written, the others are
copies that differ in a few bytes, so that no two are the same adapter.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from lorax_serve.ipc.types import AdapterRef
from lorax_serve.kernels.lora import LoraSite

_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_MARK_BYTES = 8  # at the end of the file, in the last matrix: small bf16 numbers all the same


def write_adapters(
    folder: Path, sites: Sequence[LoraSite], rank: int, number: int, dtype: torch.dtype
) -> list[AdapterRef]:
    """`number` adapters of all linear layers but the head, in `folder`."""
    first = folder / "adapter-0"
    first.mkdir(parents=True)
    modules = [t.module for site in sites for t in site.targets if t.module != "lm_head"]
    (first / _CONFIG).write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": rank,
                "lora_alpha": rank,
                "target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules}),
            }
        )
    )
    save_file(_tensors(sites, rank, dtype), first / _WEIGHTS)
    refs = [_ref(first)]
    for index in range(1, number):
        copy = folder / f"adapter-{index}"
        copy.mkdir()
        shutil.copy(first / _CONFIG, copy / _CONFIG)
        shutil.copy(first / _WEIGHTS, copy / _WEIGHTS)
        _mark(copy / _WEIGHTS, index)
        refs.append(_ref(copy))
    return refs


def _tensors(sites: Sequence[LoraSite], rank: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {}
    for site in sites:
        for target in site.targets:
            if target.module != "lm_head":
                name = f"base_model.model.{target.module}.lora_"
                a = torch.randn(rank, site.in_features) * 0.01
                b = torch.randn(target.out_features, rank) * 0.01
                tensors[f"{name}A.weight"], tensors[f"{name}B.weight"] = a.to(dtype), b.to(dtype)
    return tensors


def _mark(path: Path, index: int) -> None:
    with path.open("r+b") as file:
        file.seek(-_MARK_BYTES, 2)
        # Of each 16 bits the exponent stays that of a number near 0.01.
        digits = [index >> shift & 0x7F for shift in (0, 7, 14, 21)]
        file.write(b"".join(bytes((digit, 0x3C)) for digit in digits))


def _ref(folder: Path) -> AdapterRef:
    return AdapterRef(name=folder.name, path=str(folder), revision="1")
