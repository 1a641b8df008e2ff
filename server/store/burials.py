"""Entries that the store has forgotten, and whose files are still read."""

import asyncio
import functools

import structlog

from lorax_serve.server.store.folders import StoreFolders
from lorax_serve.server.store.lease import Entry
from lorax_serve.server.threads import run_whole

log = structlog.get_logger(__name__)


class Burials:
    """Deletes an entry's folder as soon as nobody holds the entry. Used on one event loop."""

    def __init__(self, folders: StoreFolders) -> None:
        self._folders = folders
        self._entries: set[Entry] = set()  # whose folders are still there
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def charged_bytes(self) -> int:
        return sum(entry.charged_bytes for entry in self._entries)

    async def add(self, entry: Entry) -> None:
        """Its folder is gone when this returns, unless somebody holds it. Raises OSError."""
        self._entries.add(entry)
        if entry.num_leases:
            entry.when_unheld = functools.partial(self._bury_later, entry)
        else:
            await self._bury(entry)

    def _bury_later(self, entry: Entry) -> None:
        async def bury() -> None:
            try:
                await self._bury(entry)
            except OSError as error:
                log.warning("adapter_files_not_deleted", reason=error.strerror)

        task = asyncio.get_running_loop().create_task(bury())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bury(self, entry: Entry) -> None:
        try:
            await run_whole(self._folders.delete, entry.path)
        finally:
            self._entries.discard(entry)
