"""How much the store may still write: the operator's quota, and what the disk has to spare."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


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
