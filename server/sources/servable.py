"""Which local folders look as if they could be served, by what a glance tells.

The engine alone knows for certain, once it has read an adapter. A list is to name no folder whose
weights are missing or pickled, nor another kind of adapter than LoRA.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.store.content import CONFIG_FILE, WEIGHT_FILE

_MAX_CONFIG_BYTES: Final = 2**20


class _Config(Struct, frozen=True):
    """adapter_config.json, as far as it counts here. Files from before PEFT's types have a rank."""

    peft_type: str | None = None
    r: object = None


def servable_names(adapters: LocalAdapters) -> list[str]:
    """Of the names it lists; a few short reads of the disk for each."""
    return [name for name in adapters.list() if _looks_servable(adapters, name)]


def _looks_servable(adapters: LocalAdapters, name: str) -> bool:
    try:
        folder = Path(adapters.resolve(name).path)
        with (folder / CONFIG_FILE).open("rb") as file:
            content = file.read(_MAX_CONFIG_BYTES + 1)
        config = msgspec.json.decode(content, type=_Config)
        if len(content) > _MAX_CONFIG_BYTES or not (folder / WEIGHT_FILE).is_file():
            return False
    except (ServeError, OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return config.peft_type == "LORA" or (config.peft_type is None and config.r is not None)
