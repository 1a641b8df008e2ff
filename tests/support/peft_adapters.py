"""PEFT adapters for any transformers model, written to folders, and changes to such folders.

`build_adapter` is the oracle's door: the model it returns computes what the folder it wrote means.
"""

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from lorax_serve.ipc.types import AdapterRef

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


def build_adapter(
    folder: Path,
    base_model: torch.nn.Module,
    *,
    rank: int = 8,
    targets: list[str] | tuple[str, ...] | str = ALL_LINEAR,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    magnitude: float = 0.3,
    save_embedding_layers: bool | str = False,
    edited_config: Mapping[str, Any] = MappingProxyType({}),
    **lora_config: Any,
) -> PeftModel:
    """Write an adapter with random A and B to `folder`; return PEFT's reading of that folder.

    `base_model` is left alone: the result works on a copy, in float32. `targets` is a list of
    suffixes, a regex, or "all-linear"; `lora_config` is passed on to peft.LoraConfig. The file's
    tensors have type `dtype`. `magnitude` sets the size of A and B: BA is about
    `magnitude * lora_alpha / rank` times as large as ordinary weights. `edited_config` is set in
    the saved config before PEFT reads it: what PEFT itself would not write.
    """
    config = LoraConfig(
        r=rank,
        target_modules=targets if isinstance(targets, str) else list(targets),
        **{"lora_alpha": 2 * rank, "task_type": "CAUSAL_LM", **lora_config},
    )
    with warnings.catch_warnings():
        # PEFT warns about several of the very features under test.
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(base_model), config)
        randomize(model, seed=seed, magnitude=magnitude)
        model.save_pretrained(str(folder), save_embedding_layers=save_embedding_layers)
        edit_tensors(folder, lambda tensors: {k: v.to(dtype) for k, v in tensors.items()})
        edit_config(folder, **edited_config)
        # Not the model just saved: PEFT sorts the patterns of a config as it writes them.
        return PeftModel.from_pretrained(copy.deepcopy(base_model), str(folder)).eval()


def randomize(model: torch.nn.Module, *, seed: int, magnitude: float) -> None:
    """Fill every LoRA matrix from the seed, so that B is not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            values = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(values * (magnitude / parameter.shape[-1]) ** 0.5)


def peft_deltas(model: PeftModel, adapter: str = "default") -> dict[str, torch.Tensor]:
    """What the adapter adds to each linear it targets, as PEFT computes it."""
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight(adapter).detach()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
    }


def adapter_ref(folder: Path, *, name: str | None = None, revision: str = "1") -> AdapterRef:
    return AdapterRef(name=name or folder.name, path=str(folder), revision=revision)


# -- changing what is in a folder


def edit_tensors(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    tensors = change(load_file(folder / WEIGHTS_NAME))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / WEIGHTS_NAME)


def edit_config(folder: Path, **fields: Any) -> None:
    """Set config fields; a value of `...` removes the field."""
    config = json.loads((folder / CONFIG_NAME).read_text())
    config.update(fields)
    kept = {key: value for key, value in config.items() if value is not ...}
    (folder / CONFIG_NAME).write_text(json.dumps(kept))


def edit_bytes(folder: Path, change: Callable[[bytes], bytes]) -> None:
    file = folder / WEIGHTS_NAME
    file.write_bytes(change(file.read_bytes()))
