"""Adapters of other places: the permission is proven, then the bytes are here, held by a lease."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.authority import Authority
from lorax_serve.server.downloads import DownloadLimits, Downloads
from lorax_serve.server.errors import ServeError, UnservedSource
from lorax_serve.server.fetch_refusals import check_files, explained
from lorax_serve.server.places import Place, WaitingRoom
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    RemoteAdapter,
    Source,
    SourceCorrupt,
    SourceUnavailable,
)
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.fetches import FetchCounts, FetchUnderWay
from lorax_serve.server.store.lease import Lease
from lorax_serve.server.store.names import Meaning
from lorax_serve.server.verdicts import Verdicts


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    max_adapter_bytes: int = 2 * 2**30
    downloads: DownloadLimits = field(default_factory=DownloadLimits)
    deadline: float = 120.0  # seconds a request waits for its adapter's files
    patience: float = 5.0  # and for news of an adapter that may be served without
    private_grace: float = 0.0  # for how long a caller's own proof outlasts a source's silence
    max_waiting: int = 256  # requests; half of them may wait for the same, by the same credential


class RemoteAdapters:
    def __init__(
        self,
        sources: Mapping[str, Source],
        store: AdapterStore,
        limits: FetchLimits,
        verdicts: Verdicts | None = None,
    ) -> None:
        self._sources = sources
        self._store = store
        self._limits = limits
        self._authority = Authority(
            store,
            Verdicts() if verdicts is None else verdicts,
            patience=limits.patience,
            private_grace=limits.private_grace,
        )
        self._waits: set[asyncio.Timeout] = set()
        self._stopped = False
        # By whether the name's bytes are here: who waits for a permission alone is not crowded out
        # by who waits for a download.
        self._rooms = {
            is_here: WaitingRoom(limits.max_waiting, number_each=math.ceil(limits.max_waiting / 2))
            for is_here in (True, False)
        }
        self._downloads = Downloads(sources, store, self._authority, limits.downloads)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def known(self, source_name: str, adapter_id: str, token: str | None) -> RemoteAdapter | None:
        """What the name means, if this caller is known to be permitted; nobody is asked."""
        if source_name not in self._sources:  # it may have been, when its adapters were fetched
            return None
        return self._authority.known(source_name, adapter_id, token)

    def listed(self, token: str | None) -> Iterator[tuple[str, RemoteAdapter]]:
        """Ids of adapters whose bytes are here and that this caller is known to be permitted."""
        for meaning in self._store.meanings():
            if token is not None or meaning.adapter.public:
                known = self.known(meaning.source, meaning.adapter_id, token)
                if known is not None:
                    yield meaning.adapter_id, known

    def stored(self) -> list[Meaning]:
        """Every name whose bytes are here, whoever may use it."""
        return self._store.meanings()

    @property
    def cache_dir(self) -> Path:
        return self._store.folder

    def fetches(self) -> list[FetchUnderWay]:
        """Downloads under way, whoever waits for them."""
        return self._store.fetches()

    def fetch_counts(self) -> Mapping[str, FetchCounts]:
        """By source, of those that have ended."""
        return self._store.fetch_counts

    async def lease(
        self,
        source_name: str,
        adapter_id: str,
        token: str | None,
        *,
        anew: bool = False,
        place: Place | None = None,
    ) -> tuple[RemoteAdapter, Lease]:
        """What the name means, and the files, as this caller may have them; the caller ends the
        lease.

        `anew`: ask the source which bytes the name means now, whatever it said before. `place` is
        left for as long as the source is waited for; without one, the wait is an operator's and
        counts against nobody.

        Raises:
            UnservedSource: there is no such source here.
            ServeError: INVALID_REQUEST for an id that can name nothing; MODEL_NOT_FOUND for one
                that names nothing this caller may use; ADAPTER_TOO_LARGE, ADAPTER_INCOMPATIBLE,
                ADAPTER_UNAVAILABLE, ADAPTER_INTEGRITY, INSUFFICIENT_STORAGE; ADAPTER_QUEUE_FULL
                when too many wait for sources already.
        """
        source = self._sources.get(source_name)
        if source is None:
            raise UnservedSource(self.names)
        source.check_id(adapter_id)
        with explained(source, adapter_id):
            if not anew and (here := await self._here(source, adapter_id, token)) is not None:
                return here
            if place is None:
                return await self._asked(source, adapter_id, token, anew=anew)
            return await self._asked_aside(source, adapter_id, token, place, anew=anew)

    def stop(self) -> None:
        """Whoever waits for an adapter is told that the server is shutting down."""
        self._stopped = True
        for wait in self._waits:
            wait.reschedule(0)

    async def close(self) -> None:
        for source in self._sources.values():
            await source.close()
        self._store.close()

    @asynccontextmanager
    async def _wait(self) -> AsyncIterator[None]:
        """Raises SourceUnavailable after the deadline, and ServeError when the server stops."""
        try:
            async with asyncio.timeout(0 if self._stopped else self._limits.deadline) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.remove(wait)
        except TimeoutError:
            if self._stopped:
                raise ServeError(
                    ErrorCode.SERVER_SHUTDOWN, "The server is shutting down."
                ) from None
            raise SourceUnavailable("nothing came of it in time") from None

    async def _here(
        self, source: Source, adapter_id: str, token: str | None
    ) -> tuple[RemoteAdapter, Lease] | None:
        """What can be had without asking the source for anything. Raises NotFoundOrForbidden."""
        adapter = self._authority.remembered(source.name, adapter_id, token)
        return None if adapter is None else await self._held(adapter_id, adapter)

    async def _held(
        self, adapter_id: str, adapter: RemoteAdapter
    ) -> tuple[RemoteAdapter, Lease] | None:
        async with self._wait():
            lease = await self._stored(adapter)
            return None if lease is None else await self._remembering(adapter_id, adapter, lease)

    async def _asked_aside(
        self, source: Source, adapter_id: str, token: str | None, place: Place, *, anew: bool
    ) -> tuple[RemoteAdapter, Lease]:
        """As `_asked`, in a room for those who wait instead of in the place."""
        is_here = self._store.last_meaning(source.name, adapter_id) is not None
        room = self._rooms[is_here]
        waits_for = (source.name, adapter_id, self._authority.fingerprint(token))
        if not room.has_room(waits_for):
            known = self._authority.outlasting(source, adapter_id, token)
            if known is not None and (held := await self._held(adapter_id, known)) is not None:
                return held
        with room.enter(waits_for):
            place.leave()
            adapter, lease = await self._asked(source, adapter_id, token, anew=anew)
            try:
                await place.take_again()
            except BaseException:
                lease.release()
                raise
            return adapter, lease

    async def _asked(
        self, source: Source, adapter_id: str, token: str | None, *, anew: bool
    ) -> tuple[RemoteAdapter, Lease]:
        resolve = self._authority.resolve_anew if anew else self._authority.resolve
        async with self._wait():
            adapter = await resolve(source, adapter_id, token)
            lease = await self._stored(adapter)
            if lease is None:
                try:
                    lease = await self._downloads.fetch(source, adapter_id, adapter, token)
                except (NotFoundOrForbidden, SourceCorrupt):  # the name may mean other bytes by now
                    self._authority.revoke(source, adapter_id, token)
                    raise
            return await self._remembering(adapter_id, adapter, lease)

    async def _stored(self, adapter: RemoteAdapter) -> Lease | None:
        check_files(adapter.files, self._limits.max_adapter_bytes)
        return await self._store.lease(adapter)

    async def _remembering(
        self, adapter_id: str, adapter: RemoteAdapter, lease: Lease
    ) -> tuple[RemoteAdapter, Lease]:
        try:
            await self._store.remember(adapter_id, adapter, lease)
        except BaseException:
            lease.release()
            raise
        return adapter, lease
