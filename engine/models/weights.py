"""From safetensors files to tensors already allocated, one at a time, and strictly.

Every tensor of the files fills its destination, and every destination is filled, or the model is
refused by the names of the culprits.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lorax_serve.engine.models.json_fields import read_json
from lorax_serve.engine.models.registry import refusal

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_MAX_NAMES = 5


def fill(
    destinations: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    tolerated: Callable[[str], bool],
    report: Callable[[float], None],
) -> None:
    """Copies the checkpoint in `folder` into `destinations` (published name -> view to fill).

    Dtype and layout are those of the destination. Names for which `tolerated` holds may be in the
    files without a destination. `report` gets fractions of the elements copied, from 0 to 1.
    Raises ModelRefused.
    """
    files = _checkpoint_files(folder)
    missing = set(destinations)
    num_elements = sum(tensor.numel() for tensor in destinations.values())
    num_copied = 0
    report(0.0)
    for name, tensor in _tensors(files, lambda name: name in destinations or tolerated(name)):
        if name not in destinations:
            continue
        if name not in missing:
            raise refusal(f"tensor {name} is in two of its files")
        _copy(name, tensor, destinations[name])
        missing.remove(name)
        num_copied += tensor.numel()
        report(num_copied / num_elements)
    if missing:
        raise refusal(f"its files lack {_names(missing)}")


def read_tensor(folder: Path, name: str) -> torch.Tensor | None:
    """One published tensor as it is in the checkpoint; None where it, or all of that, is missing.

    Raises ModelRefused when the files cannot be read.
    """
    if not (folder / _SINGLE).exists() and not (folder / _INDEX).exists():
        return None
    for file in _checkpoint_files(folder):
        try:
            with safe_open(file, framework="pt") as reader:
                if name in reader.keys():  # noqa: SIM118 - a reader is no mapping
                    tensor: torch.Tensor = reader.get_tensor(name)
                    return tensor
        except (OSError, SafetensorError) as error:
            raise refusal(f"{file} cannot be read ({error})") from error
    return None


def _checkpoint_files(folder: Path) -> list[Path]:
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    if not (folder / _INDEX).exists():
        raise refusal(f"{folder} holds neither {_SINGLE} nor {_INDEX}")
    weight_map = read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise refusal(f"{_INDEX} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise refusal(f"{_INDEX} names {name!r}, which is no safetensors file beside it")
    return [folder / name for name in names]


def _tensors(
    files: Iterable[Path], known: Callable[[str], bool]
) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of all files; unknown names are refused file by file, before any is read."""
    for file in files:
        try:
            with safe_open(file, framework="pt") as reader:
                names = list(reader.keys())
                unexpected = [name for name in names if not known(name)]
                if unexpected:
                    raise refusal(f"{file.name} has unexpected tensors: {_names(unexpected)}")
                for name in names:
                    yield name, reader.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise refusal(f"{file} cannot be read ({error})") from error


def _copy(name: str, source: torch.Tensor, destination: torch.Tensor) -> None:
    if source.dtype not in _FLOATS:
        raise refusal(f"tensor {name} is {str(source.dtype).removeprefix('torch.')}")
    if source.shape != destination.shape:
        raise refusal(
            f"tensor {name} has shape {list(source.shape)}, expected {list(destination.shape)}"
        )
    destination.copy_(source)
    if destination.dtype == torch.float16 != source.dtype and not destination.isfinite().all():
        raise refusal(f"tensor {name} has values beyond float16; serve it in bfloat16 or float32")


def _names(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} more"
