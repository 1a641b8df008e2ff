"""Fetched adapters on this machine's disk, by content: whole, verified, and only so many bytes.

What has not been used for longest goes first; an entry somebody holds a lease on never goes. All
methods are called on one event loop; what may block for long runs on threads.
"""

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from pathlib import Path

import structlog

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.source import RemoteAdapter, SourceCorrupt
from lorax_serve.server.store.content import folder_bytes, folder_digest, folder_stamp
from lorax_serve.server.store.folders import StoreFolders
from lorax_serve.server.store.incoming import Fetch, Incoming
from lorax_serve.server.store.lease import Entry, Lease
from lorax_serve.server.store.names import KnownNames, Meaning
from lorax_serve.server.store.room import Quota
from lorax_serve.server.threads import run_whole

log = structlog.get_logger(__name__)


class AdapterStore:
    def __init__(self, root: Path, quota: Quota) -> None:
        """Takes over what a run before left at `root`. Raises StoreBusy, and OSError."""
        self._quota = quota
        self._folders = StoreFolders(root)
        found = sorted(self._folders.entries(), key=lambda entry: entry[2])
        self._entries = OrderedDict(  # the least recently used first
            (digest, Entry(digest, self._folders.entry(digest), num_bytes))
            for digest, num_bytes, _ in found
        )
        self._names = KnownNames(self._folders.names, self._entries)
        self._unfinished = dict(self._folders.partials())  # bytes by key, nobody at work on them
        self._incoming: dict[str, Incoming] = {}
        self._changing = asyncio.Lock()  # whoever makes entries or removes them

    @property
    def num_entries(self) -> int:
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """Bytes on the disk, unfinished downloads included, and what is promised to new ones."""
        running = sum(incoming.num_bytes for incoming in self._incoming.values())
        whole = sum(entry.num_bytes for entry in self._entries.values())
        return whole + sum(self._unfinished.values()) + running

    def close(self) -> None:
        self._folders.close()

    def last_meaning(self, source: str, adapter_id: str) -> RemoteAdapter | None:
        """What a name meant last, if its bytes are still here. No proof of permission."""
        return self._names.last_meaning(source, adapter_id)

    def meanings(self) -> list[Meaning]:
        """What is known of every name whose bytes are here. No proof of anybody's permission."""
        return list(self._names)

    def remember(self, adapter_id: str, adapter: RemoteAdapter, lease: Lease) -> None:
        """Note what a name means, beyond the end of this process if the disk permits."""
        try:
            self._names.remember(adapter_id, adapter, lease.digest)
        except OSError as error:
            log.warning("adapter_name_not_kept", reason=error.strerror)

    def forget(self, source: str, adapter_id: str) -> None:
        """What the name meant last does not count any more."""
        with contextlib.suppress(OSError):  # a start that reads it again asks the source again
            self._names.forget(source, adapter_id)

    async def lease(self, adapter: RemoteAdapter) -> Lease | None:
        """A hold on this revision's bytes if they are here, as they should be."""
        entry = self._entries.get(self._names.digest(adapter) or "")
        if entry is None:
            return None
        lease = Lease(entry)
        try:
            if await self._is_whole(entry):
                self._entries.move_to_end(entry.digest)
                self._folders.touch(entry.digest)
                return lease
        except BaseException:
            lease.release()
            raise
        lease.release()
        async with self._changing:
            await self._discard(entry)
        return None

    async def receive(self, adapter_id: str, adapter: RemoteAdapter, fetch: Fetch) -> Lease:
        """Have `fetch` write every file, check them, and keep them; a hold on the result.

        Cancelled or failed, it leaves what can be resumed. Only one call for the same revision may
        run at a time.

        Raises:
            ServeError: INSUFFICIENT_STORAGE when there is no room, or the disk refuses.
            SourceCorrupt: the bytes are not what was announced; none of them are kept.
            SourceError: as `fetch` raises it.
        """
        key = _partial_key(adapter)
        folder = self._folders.partial(key)
        keep = True
        try:
            await self._make_room(key, Incoming(adapter, folder))
            digest = await self._incoming[key].fetch_all(fetch)
            lease = await self._publish(key, digest)
        except (SourceCorrupt, OSError) as error:
            keep = False
            if isinstance(error, OSError):
                raise _disk_refused(error) from None
            raise
        finally:
            await self._settle(key, folder, keep=keep)
        self.remember(adapter_id, adapter, lease)
        return lease

    async def _make_room(self, key: str, incoming: Incoming) -> None:
        """Enter the download, evicting what must go for it. Raises ServeError."""
        async with self._changing:
            self._unfinished.pop(key, None)
            self._incoming[key] = incoming
            unheld = [entry for entry in self._entries.values() if not entry.num_leases]
            evictable = sum(self._unfinished.values()) + sum(entry.num_bytes for entry in unheld)
            if self._num_too_many() > evictable:  # so that what is here is not lost for nothing
                raise _no_room()
            while self._num_too_many() > 0:
                if not await self._evict_one():
                    raise _no_room()

    def _num_too_many(self) -> int:
        """Bytes that must go for everything entered to fit, zero or less when it does."""
        missing = sum(incoming.num_missing for incoming in self._incoming.values())
        over_quota = self.num_bytes - self._quota.max_bytes
        return max(over_quota, missing - self._quota.spare_bytes(self._folders.root))

    async def _evict_one(self) -> bool:
        """Delete what is missed least: an unfinished download, or the entry unused for longest."""
        if self._unfinished:
            key = next(iter(self._unfinished))
            del self._unfinished[key]
            await run_whole(self._folders.delete, self._folders.partial(key))
            return True
        for entry in self._entries.values():
            if entry.num_leases == 0:
                await self._remove(entry)
                return True
        return False

    async def _remove(self, entry: Entry) -> None:
        if not entry.num_leases:
            await self._discard(entry)

    async def _discard(self, entry: Entry) -> None:
        """Without regard to leases: nobody is served by bytes that are not what they should be."""
        if self._entries.get(entry.digest) is not entry:
            return
        del self._entries[entry.digest]
        self._names.forget_entry(entry.digest)
        await run_whole(self._folders.delete, entry.path)

    async def _is_whole(self, entry: Entry) -> bool:
        """Whether the bytes are what they should be; that is found out once in the life of a
        process, and again when the files are not those that were looked at.
        """
        async with entry.verifying:
            stamp = folder_stamp(entry.path)
            if stamp is None or stamp == entry.verified:
                return stamp is not None
            entry.verified = stamp if await run_whole(_has_digest, entry) else None
            return entry.verified is not None

    async def _publish(self, key: str, digest: str) -> Lease:
        async with self._changing:
            there = self._entries.get(digest)
            if there is not None and not await self._is_whole(there):
                await self._discard(there)
            num_bytes = self._incoming[key].num_bytes
            await run_whole(self._folders.publish, key, digest)
            path = self._folders.entry(digest)
            entry = self._entries.setdefault(digest, Entry(digest, path, num_bytes))
            entry.verified = folder_stamp(path)
            self._entries.move_to_end(digest)
            return Lease(entry)

    async def _settle(self, key: str, folder: Path, *, keep: bool) -> None:
        """Account for what a download leaves behind, or delete it."""
        self._incoming.pop(key, None)
        with contextlib.suppress(FileNotFoundError):  # it was published, or never begun
            if keep:
                self._unfinished[key] = folder_bytes(folder)
            else:
                await run_whole(self._folders.delete, folder)


def _has_digest(entry: Entry) -> bool:
    try:
        return folder_digest(entry.path) == entry.digest
    except OSError:
        return False


def _no_room() -> ServeError:
    return ServeError(
        ErrorCode.INSUFFICIENT_STORAGE,
        "The server has no room on its disk for this adapter now.",
    )


def _disk_refused(error: OSError) -> ServeError:
    log.error("adapter_not_stored", reason=error.strerror)
    return ServeError(
        ErrorCode.INSUFFICIENT_STORAGE, "The server's disk cannot take this adapter now."
    )


def _partial_key(adapter: RemoteAdapter) -> str:
    name = f"{adapter.source}\0{adapter.repository}\0{adapter.revision}"
    return hashlib.sha256(name.encode()).hexdigest()
