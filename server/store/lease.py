"""Holding an entry of the store, so that it is not evicted meanwhile."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lorax_serve.server.store.content import FolderState, folder_digest, folder_state

_OUR_LACK: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@dataclass(eq=False, slots=True)
class Entry:
    """One adapter in the store."""

    digest: str
    path: Path
    charged_bytes: int
    state: FolderState | None  # when this process found its bytes to be what the digest says
    distrusted: bool = False  # the engine could make nothing of it
    num_leases: int = 0
    when_unheld: Callable[[], None] | None = None
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

    def distrust(self) -> None:
        """The engine found the files damaged: they are to be fetched again, if once already they
        were not.
        """
        self._entry.distrusted = True

    def recheck(self) -> None:
        """The files may be damaged: they are to be hashed again before their next use."""
        self._entry.state = None

    def release(self) -> None:
        if not self._held:
            return
        self._held = False
        self._entry.num_leases -= 1
        if not self._entry.num_leases and self._entry.when_unheld is not None:
            self._entry.when_unheld()


def look_over(entry: Entry) -> FolderState | None:
    """What the files of an entry that is whole are like; None of one that is damaged.

    Raises OSError where it is this process that lacks something, and nobody can tell.
    """
    try:
        state = folder_state(entry.path)
        if state != entry.state and folder_digest(entry.path) != entry.digest:
            return None
    except OSError as error:
        if error.errno in _OUR_LACK:
            raise
        return None
    with contextlib.suppress(OSError):
        os.utime(entry.path)  # as used; decides the order of eviction after a restart
    return state
