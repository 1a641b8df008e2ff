"""Names that an operator gave to adapters while the server runs.

A name says which adapter is meant and nothing about who may use it: a request under it is resolved
with its own credential, like one that names the adapter itself.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError

MAX_ALIASES: Final = 4096
MAX_CHARS: Final = 128

# What no header, log, label or path has to escape.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]*")


@dataclass(frozen=True, slots=True)
class Target:
    """An adapter by its own name."""

    source: str
    adapter_id: str

    def __str__(self) -> str:
        return f"{self.source}:{self.adapter_id}"


class AdapterAliases:
    def __init__(self) -> None:
        self._targets: dict[str, Target] = {}

    def __iter__(self) -> Iterator[tuple[str, Target]]:
        """Those that there are now, whatever becomes of them."""
        return iter(tuple(self._targets.items()))

    def get(self, name: str) -> Target | None:
        return self._targets.get(name)

    def check_new(self, name: str) -> None:
        """Raises ServeError when there is no place for another name, or it is no name."""
        if not _NAME.fullmatch(name) or len(name) > MAX_CHARS:
            raise ServeError(
                ErrorCode.INVALID_REQUEST,
                f"`lora_name` must be 1 to {MAX_CHARS} letters, digits and ._:@/+- after a letter"
                " or digit.",
                param="lora_name",
            )
        if name not in self._targets and len(self._targets) >= MAX_ALIASES:
            raise ServeError(
                ErrorCode.INVALID_REQUEST,
                f"At most {MAX_ALIASES} names can be loaded; unload one first.",
            )

    def put(self, name: str, target: Target) -> None:
        self._targets[name] = target

    def remove(self, name: str) -> None:
        del self._targets[name]
