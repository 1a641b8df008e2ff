"""How much the store may still write: the operator's quota, and what the disk has to spare."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.store.names import MAX_NAMES_PER_ENTRY

BLOCK_BYTES: Final = 4096  # what file systems give a file is a multiple of this
# Beside its files an adapter takes a folder, and a small file for each of its names: as many as
# there may be. So the quota also bounds the number of adapters, and of inodes.
ENTRY_BYTES: Final = (1 + MAX_NAMES_PER_ENTRY) * BLOCK_BYTES


def charged_bytes(file_bytes: Iterable[int]) -> int:
    """What an adapter whose files have these sizes counts in the quota."""
    return ENTRY_BYTES + sum(-(-num_bytes // BLOCK_BYTES) for num_bytes in file_bytes) * BLOCK_BYTES


class DiskState(Protocol):
    """What of `os.statvfs_result` counts."""

    @property
    def f_frsize(self) -> int: ...
    @property
    def f_blocks(self) -> int: ...
    @property
    def f_bavail(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Sizes in bytes. What a disk keeps free is a share of its size and a fixed part on top."""

    max_bytes: int
    free_share: float = 0.05
    free_bytes: int = 2 * 10**9
    disk_state: Callable[[Path], DiskState] = os.statvfs

    def spare_bytes(self, folder: Path) -> int:
        """What may be written beside `folder`, negative when too much is. Raises OSError."""
        state = self.disk_state(folder)
        kept_free = int(state.f_blocks * state.f_frsize * self.free_share) + self.free_bytes
        return state.f_bavail * state.f_frsize - kept_free


def no_room() -> ServeError:
    return ServeError(
        ErrorCode.INSUFFICIENT_STORAGE,
        "The server has no room on its disk for this adapter now (--adapter-cache-bytes).",
    )
