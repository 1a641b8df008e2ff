"""Holding an entry of the store, so that it is not evicted meanwhile."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from lorax_serve.server.store.content import FolderStamp


@dataclass(eq=False, slots=True)
class Entry:
    """One adapter in the store."""

    digest: str
    path: Path
    num_bytes: int
    # Of its files when this process found that their bytes are what the digest says.
    verified: FolderStamp | None = None
    num_leases: int = 0
    verifying: asyncio.Lock = field(default_factory=asyncio.Lock)


class Lease:
    """One user's hold on an entry; `release` ends it, once however often it is called."""

    __slots__ = ("_entry", "_held")

    def __init__(self, entry: Entry) -> None:
        entry.num_leases += 1
        self._entry = entry
        self._held = True

    @property
    def path(self) -> Path:
        """The folder with the adapter's files; they never change."""
        return self._entry.path

    @property
    def digest(self) -> str:
        return self._entry.digest

    def share(self) -> "Lease":
        """Another hold on the same entry, of its own length."""
        return Lease(self._entry)

    def release(self) -> None:
        if self._held:
            self._held = False
            self._entry.num_leases -= 1
