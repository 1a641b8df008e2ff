"""Fetched adapters on this machine's disk, by content: whole, verified, and only so many bytes.

What has not been used for longest goes first; an entry somebody holds a lease on never goes. All
methods are called on one event loop; what may block for long runs on threads.
"""

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.source import RemoteAdapter, SourceCorrupt
from lorax_serve.server.store.burials import Burials
from lorax_serve.server.store.fetches import FetchCounts, FetchUnderWay
from lorax_serve.server.store.folders import StoreFolders
from lorax_serve.server.store.incoming import Fetch, Incoming, Unfinished, partial_key
from lorax_serve.server.store.lease import Entry, Lease, look_over
from lorax_serve.server.store.names import KnownNames, Meaning
from lorax_serve.server.store.room import Quota, no_room
from lorax_serve.server.threads import run_whole

log = structlog.get_logger(__name__)

SHORT_DIGEST: Final = 12  # characters of a digest that are logged
_MAX_REFETCHED: Final = 4096


class AdapterStore:
    def __init__(self, root: Path, quota: Quota, clock: Callable[[], float] = time.time) -> None:
        """Takes over what a run before left at `root`. `clock` is in Unix seconds.

        Raises StoreBusy, and OSError.
        """
        self._quota = quota
        self._folders = StoreFolders(root)
        found = sorted(self._folders.entries(), key=lambda entry: entry[3])
        self._entries = OrderedDict(  # the least recently used first
            (digest, Entry(digest, path, charged, state=None)) for digest, path, charged, _ in found
        )
        self._burials = Burials(self._folders)
        self._refetched: OrderedDict[str, None] = OrderedDict()  # because the engine refused them
        self._names = KnownNames(self._folders.names, self._entries, clock)
        self._unfinished = {  # by key, nobody at work on them
            key: Unfinished(charged, left={}) for key, charged in self._folders.partials()
        }
        self._incoming: dict[str, Incoming] = {}
        self.fetch_counts: defaultdict[str, FetchCounts] = defaultdict(FetchCounts)  # by source
        self._changing = asyncio.Lock()  # whoever makes entries or removes them

    @property
    def folder(self) -> Path:
        return self._folders.root

    @property
    def num_entries(self) -> int:
        return len(self._entries)

    @property
    def charged_bytes(self) -> int:
        """Bytes charged to the quota: whole adapters, unfinished downloads, and what is promised
        to new ones.
        """
        running = sum(incoming.charged_bytes for incoming in self._incoming.values())
        whole = sum(entry.charged_bytes for entry in self._entries.values())
        unfinished = sum(partial.charged_bytes for partial in self._unfinished.values())
        return whole + self._burials.charged_bytes + unfinished + running

    def close(self) -> None:
        self._folders.close()

    def last_meaning(
        self, source: str, adapter_id: str, *, within: float | None = None
    ) -> RemoteAdapter | None:
        """What a name meant last, if its bytes are still here and, where that is asked, its source
        said so within so many seconds. No proof of permission.
        """
        return self._names.last_meaning(source, adapter_id, within=within)

    def confirm(self, adapter_id: str, adapter: RemoteAdapter) -> None:
        """Its source says so now; counts if that is what the name means already."""
        self._names.confirm(adapter_id, adapter)

    def meanings(self) -> list[Meaning]:
        """What is known of every name whose bytes are here. No proof of anybody's permission."""
        return list(self._names)

    def fetches(self) -> list[FetchUnderWay]:
        """Downloads under way, the oldest first."""
        return [incoming.under_way() for incoming in self._incoming.values()]

    async def remember(self, adapter_id: str, adapter: RemoteAdapter, lease: Lease) -> None:
        """Note what a name means, beyond the end of this process if the disk permits."""
        if lease.digest in self._entries:
            self._names.remember(adapter_id, adapter, lease.digest)
            await self._save_names()

    async def forget(self, source: str, adapter_id: str) -> None:
        """What the name meant last does not count any more."""
        self._names.forget(source, adapter_id)
        await self._save_names()

    async def _save_names(self) -> None:
        try:
            await self._names.save()
        except OSError as error:  # a start that reads what was there before asks the source again
            log.warning("adapter_names_not_kept", reason=error.strerror)

    async def lease(self, adapter: RemoteAdapter) -> Lease | None:
        """A hold on this revision's bytes if they are here, as they should be.

        An entry that is damaged, or that the engine found to be so, is dropped: none is returned.
        Raises ServeError (INSUFFICIENT_STORAGE) when it cannot be looked at.
        """
        entry = self._entries.get(self._names.digest(adapter) or "")
        if entry is None:
            return None
        lease = Lease(entry)
        try:
            if await self._is_whole(entry) and self._entries.get(entry.digest) is entry:
                self._entries.move_to_end(entry.digest)
                return lease
        except OSError as error:
            lease.release()
            raise _disk_refused(error) from None
        except BaseException:
            lease.release()
            raise
        lease.release()
        async with self._changing:
            if self._entries.get(entry.digest) is entry:
                log.warning("adapter_files_damaged", revision=entry.digest[:SHORT_DIGEST])
                await self._drop(entry)
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
        key = partial_key(adapter)
        try:
            incoming = await self._make_room(key, adapter_id, adapter)
            digest = await self._fetch(incoming, fetch)
            lease = await self._publish(key, digest)
        except (SourceCorrupt, OSError) as error:
            await self._discard(key)
            if isinstance(error, OSError):
                raise _disk_refused(error) from None
            raise
        except BaseException:
            await self._put_aside(key)
            raise
        del self._incoming[key]
        try:
            await self.remember(adapter_id, adapter, lease)
        except BaseException:
            lease.release()
            raise
        return lease

    async def _fetch(self, incoming: Incoming, fetch: Fetch) -> str:
        """The content's digest."""
        try:
            digest = await incoming.fetch_all(fetch)
        finally:
            num_bytes, seconds = incoming.num_received, incoming.seconds
            self.fetch_counts[incoming.source].add(num_bytes, seconds)
        log.info(
            "adapter_fetched",
            revision=digest[:SHORT_DIGEST],
            source=incoming.source,
            bytes=num_bytes,
            seconds=round(seconds, 3),
        )
        return digest

    async def _make_room(self, key: str, adapter_id: str, adapter: RemoteAdapter) -> Incoming:
        """Enter the download, evicting what must go for it. Raises ServeError."""
        async with self._changing:
            before = self._unfinished.get(key)
            left = {} if before is None else before.left
            incoming = Incoming(adapter_id, adapter, self._folders.partial(key), left)
            self._incoming[key] = incoming
            self._unfinished.pop(key, None)
            unheld = [entry for entry in self._entries.values() if not entry.num_leases]
            goes = sum(entry.charged_bytes for entry in unheld)
            goes += sum(partial.charged_bytes for partial in self._unfinished.values())
            if await self._num_too_many() > goes:  # so that what is here is not lost for nothing
                raise no_room()
            while await self._num_too_many() > 0:
                if not await self._evict_one():
                    raise no_room()
            return incoming

    async def _num_too_many(self) -> int:
        """Bytes that must go for everything entered to fit, zero or less when it does."""
        spare = await run_whole(self._quota.spare_bytes, self._folders.root)
        missing = sum(incoming.num_missing for incoming in self._incoming.values())
        return max(self.charged_bytes - self._quota.max_bytes, missing - spare)

    async def _evict_one(self) -> bool:
        """Delete what is missed least: an unfinished download, or the entry unused for longest."""
        if self._unfinished:
            key = next(iter(self._unfinished))
            del self._unfinished[key]
            await run_whole(self._folders.delete, self._folders.partial(key))
            return True
        for entry in self._entries.values():
            if entry.num_leases == 0:
                await self._drop(entry)
                return True
        return False

    async def _drop(self, entry: Entry) -> None:
        """Forget the entry, and delete its folder as soon as nobody holds it."""
        del self._entries[entry.digest]
        self._names.forget_entry(entry.digest)
        if entry.distrusted:
            self._refetched[entry.digest] = None
            if len(self._refetched) > _MAX_REFETCHED:
                self._refetched.popitem(last=False)
        await self._burials.add(entry)
        await self._save_names()

    async def _is_whole(self, entry: Entry) -> bool:
        """Whether the bytes are there and are what they should be. They are read only if the files
        are not as they were when that was found out last.
        """
        async with entry.verifying:
            # What came again as it was is the source's doing: fetching it once more is of no use.
            if entry.distrusted and entry.digest not in self._refetched:
                return False
            entry.state = await run_whole(look_over, entry)
            return entry.state is not None

    async def _publish(self, key: str, digest: str) -> Lease:
        async with self._changing:
            there = self._entries.get(digest)
            if there is not None:
                if await self._is_whole(there):
                    await run_whole(self._folders.delete, self._folders.partial(key))
                    self._entries.move_to_end(digest)
                    return Lease(there)
                await self._drop(there)
            incoming, path = self._incoming[key], await run_whole(self._folders.free_path, digest)
            entry = Entry(digest, path, incoming.charged_bytes, incoming.state)
            try:
                await run_whole(self._folders.publish, key, path)
            finally:
                if await run_whole(path.is_dir):  # even if whoever wanted it has left meanwhile
                    self._entries[digest] = entry
            return Lease(entry)

    async def _discard(self, key: str) -> None:
        try:
            await run_whole(self._folders.delete, self._folders.partial(key))
        finally:
            self._incoming.pop(key, None)

    async def _put_aside(self, key: str) -> None:
        """Account for what a download leaves behind."""
        incoming = self._incoming.pop(key, None)
        if incoming is None:  # there was nothing to begin with
            return
        self._unfinished[key] = Unfinished(incoming.charged_bytes, left={})  # while it is looked at
        try:
            found = await run_whole(incoming.unfinished)
        except FileNotFoundError:  # it was published, or never begun
            self._unfinished.pop(key, None)
        else:
            if key in self._unfinished:  # it was not evicted meanwhile
                self._unfinished[key] = found


def _disk_refused(error: OSError) -> ServeError:
    log.error("adapter_not_stored", reason=error.strerror)
    return ServeError(
        ErrorCode.INSUFFICIENT_STORAGE, "The server's disk cannot take this adapter now."
    )
