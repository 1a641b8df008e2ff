"""Adapters of other places: the permission is proven, then the bytes are here, held by a lease."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.authority import Authority
from lorax_serve.server.download_places import DownloadPlaces
from lorax_serve.server.errors import ServeError, UnservedSource, adapter_not_found
from lorax_serve.server.places import Place, WaitingRoom
from lorax_serve.server.single_flight import SingleFlight
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    OnBytes,
    RemoteAdapter,
    RemoteFile,
    Source,
    SourceCorrupt,
    SourceError,
    SourceOffline,
    SourceUnavailable,
)
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.content import CONFIG_FILE, is_adapter_file, is_shard
from lorax_serve.server.store.fetches import FetchCounts, FetchUnderWay
from lorax_serve.server.store.lease import Lease
from lorax_serve.server.store.names import Meaning
from lorax_serve.server.values import show_size
from lorax_serve.server.verdicts import Fingerprint, Verdicts

log = structlog.get_logger(__name__)

_LONGEST_RETRY_AFTER: Final = 3600  # seconds


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    max_adapter_bytes: int = 2 * 2**30
    max_downloads: int = 4  # at the same time, of each source
    stall_seconds: float = 2.0  # without a byte, until a download no longer counts among them
    deadline: float = 120.0  # seconds a request waits for its adapter's files
    patience: float = 5.0  # and for news of a public adapter that is here already
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
            store, Verdicts() if verdicts is None else verdicts, patience=limits.patience
        )
        self._waits: set[asyncio.Timeout] = set()
        self._stopped = False
        # By whether the name's bytes are here: who waits for a permission alone is not crowded out
        # by who waits for a download.
        self._rooms = {
            is_here: WaitingRoom(limits.max_waiting, number_each=math.ceil(limits.max_waiting / 2))
            for is_here in (True, False)
        }
        self._places = {
            name: DownloadPlaces(limits.max_downloads, stall_seconds=limits.stall_seconds)
            for name in sources
        }
        self._arriving: SingleFlight[tuple[str, str, str], Lease] = SingleFlight(Lease.release)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def known(self, source_name: str, adapter_id: str, token: str | None) -> RemoteAdapter | None:
        """What the name means, if this caller is known to be permitted; nobody is asked."""
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
        with self._explained(source_name, adapter_id):
            if not anew and (here := await self._here(source, adapter_id, token)) is not None:
                return here
            if place is None:
                return await self._asked(source, adapter_id, token, anew=anew)
            is_here = self._store.last_meaning(source_name, adapter_id) is not None
            waits_for = (source_name, adapter_id, self._authority.fingerprint(token))
            with self._rooms[is_here].enter(waits_for):
                place.leave()
                adapter, lease = await self._asked(source, adapter_id, token, anew=anew)
                try:
                    await place.take_again()
                except BaseException:
                    lease.release()
                    raise
                return adapter, lease

    @contextmanager
    def _explained(self, source_name: str, adapter_id: str) -> Iterator[None]:
        """What a source failed with, as the ServeError that a client gets."""
        try:
            yield
        except NotFoundOrForbidden:
            raise adapter_not_found(adapter_id) from None
        except TimeoutError:
            raise (_shutting_down() if self._stopped else _unavailable(None)) from None
        except SourceOffline:
            raise ServeError(
                ErrorCode.ADAPTER_UNAVAILABLE,
                "The adapter is not here or is private, and this server asks its source nothing.",
            ) from None
        except SourceUnavailable as error:
            log.warning("adapter_source_failed", source=source_name, reason=str(error))
            raise _unavailable(error.retry_after) from None
        except SourceCorrupt as error:
            log.warning("adapter_source_lied", source=source_name, reason=str(error))
            raise ServeError(
                ErrorCode.ADAPTER_INTEGRITY,
                "The adapter's source sent other bytes than it announced.",
            ) from None

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
        """Raises TimeoutError after the deadline, or when there is nothing to wait for any more."""
        async with asyncio.timeout(0 if self._stopped else self._limits.deadline) as wait:
            self._waits.add(wait)
            try:
                yield
            finally:
                self._waits.remove(wait)

    async def _here(
        self, source: Source, adapter_id: str, token: str | None
    ) -> tuple[RemoteAdapter, Lease] | None:
        """What can be had without asking the source for anything. Raises NotFoundOrForbidden."""
        adapter = self._authority.remembered(source.name, adapter_id, token)
        if adapter is None:
            return None
        async with self._wait():
            lease = await self._stored(adapter)
            return None if lease is None else await self._remembering(adapter_id, adapter, lease)

    async def _asked(
        self, source: Source, adapter_id: str, token: str | None, *, anew: bool
    ) -> tuple[RemoteAdapter, Lease]:
        resolve = self._authority.resolve_anew if anew else self._authority.resolve
        async with self._wait():
            adapter = await resolve(source, adapter_id, token)
            lease = await self._stored(adapter)
            if lease is None:
                try:
                    lease = await self._fetch(source, adapter_id, adapter, token)
                except (NotFoundOrForbidden, SourceCorrupt):  # the name may mean other bytes by now
                    self._authority.revoke(source, adapter_id, token)
                    raise
            return await self._remembering(adapter_id, adapter, lease)

    async def _stored(self, adapter: RemoteAdapter) -> Lease | None:
        _check_files(adapter.files, self._limits.max_adapter_bytes)
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

    async def _fetch(
        self, source: Source, adapter_id: str, adapter: RemoteAdapter, token: str | None
    ) -> Lease:
        """Join the download if there is one. Should it fail, it may be for the sake of the
        credential it was begun with: whoever has another one tries with that.
        """
        key = (adapter.source, adapter.repository, adapter.revision)
        mine = self._authority.fingerprint(token)
        while True:
            try:
                async with self._arriving.join(
                    key, lambda: self._receive(source, adapter_id, adapter, token)
                ) as lease:
                    return lease.share()
            except _FetchFailed as failure:
                if failure.credential == mine:
                    raise failure.error from None

    async def _receive(
        self, source: Source, adapter_id: str, adapter: RemoteAdapter, token: str | None
    ) -> Lease:
        try:
            async with self._places[source.name].take() as place:

                async def fetch(file: RemoteFile, destination: Path, on_bytes: OnBytes) -> None:
                    def hear(num_bytes: int) -> None:
                        place.heard()
                        on_bytes(num_bytes)

                    await source.download(adapter, file, destination, token, hear)

                # It may have come since the store was asked: by another name, or just before.
                there = await self._store.lease(adapter)
                return there or await self._store.receive(adapter_id, adapter, fetch)
        except SourceCorrupt:  # the bytes are the same for everybody
            raise
        except SourceError as error:
            raise _FetchFailed(self._authority.fingerprint(token), error) from None


class _FetchFailed(Exception):
    """A download did not succeed with this credential."""

    def __init__(self, credential: Fingerprint, error: SourceError) -> None:
        super().__init__()
        self.credential = credential
        self.error = error


def _check_files(files: tuple[RemoteFile, ...], max_bytes: int) -> None:
    """Raises ServeError before the first byte is fetched."""
    names = {file.name for file in files}
    if any(map(is_shard, names)):
        raise ServeError(
            ErrorCode.ADAPTER_INCOMPATIBLE,
            "The adapter's weights are in shards; save them as one adapter_model.safetensors.",
        )
    if len(names) != len(files) or not all(map(is_adapter_file, names)):
        raise ServeError(ErrorCode.ADAPTER_CORRUPT, "The adapter's list of files makes no sense.")
    if CONFIG_FILE not in names or len(names) == 1:
        raise ServeError(
            ErrorCode.ADAPTER_INCOMPATIBLE,
            "The adapter must have adapter_config.json and adapter_model.safetensors; weights in "
            "pickles (.bin, .pt) are never read, so convert them to safetensors.",
        )
    if sum(file.num_bytes for file in files) > max_bytes:
        raise ServeError(
            ErrorCode.ADAPTER_TOO_LARGE,
            f"The adapter's files are larger than the {show_size(max_bytes)} served here.",
        )


def _unavailable(retry_after: float | None) -> ServeError:
    seconds = None if retry_after is None else math.ceil(min(retry_after, _LONGEST_RETRY_AFTER))
    return ServeError(
        ErrorCode.ADAPTER_UNAVAILABLE,
        "The adapter's source cannot deliver it now.",
        retry_after=seconds,
    )


def _shutting_down() -> ServeError:
    return ServeError(ErrorCode.SERVER_SHUTDOWN, "The server is shutting down.")
