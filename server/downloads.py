"""Adapters on their way into the store: one download for all who wait for the same."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from lorax_serve.server.authority import Authority
from lorax_serve.server.download_pace import Pace, least_pace
from lorax_serve.server.download_places import DownloadPlaces, DownloadRoom
from lorax_serve.server.single_flight import SingleFlight
from lorax_serve.server.sources.source import (
    OnBytes,
    RemoteAdapter,
    RemoteFile,
    Source,
    SourceCorrupt,
    SourceError,
)
from lorax_serve.server.store.adapter_store import AdapterStore
from lorax_serve.server.store.lease import Lease
from lorax_serve.server.verdicts import Fingerprint


@dataclass(frozen=True, kw_only=True)
class DownloadLimits:
    number: int = 4  # at the same time, of each source; of all, twice as many
    stall_seconds: float = 2.0  # under `least_rate`, until one no longer counts among them
    least_rate: float = 16 * 2**10  # bytes a second
    # Under `least_rate` on average, until one is given up: more than a source takes to notice that
    # its peer is silent, and to go on from there.
    pace_seconds: float = 30.0


class Downloads:
    def __init__(
        self,
        source_names: Iterable[str],
        store: AdapterStore,
        authority: Authority,
        limits: DownloadLimits,
    ) -> None:
        self._store = store
        self._authority = authority
        self._limits = limits
        shared = DownloadRoom(2 * limits.number)
        self._places = {
            name: DownloadPlaces(
                limits.number,
                shared,
                stall_seconds=limits.stall_seconds,
                least_rate=limits.least_rate,
            )
            for name in source_names
        }
        self._arriving: SingleFlight[tuple[str, str, str], Lease] = SingleFlight(Lease.release)

    async def fetch(
        self, source: Source, adapter_id: str, adapter: RemoteAdapter, token: str | None
    ) -> Lease:
        """Join the download if there is one. Should it fail, it may be for the sake of the
        credential it was begun with: whoever has another one tries with that.

        Raises SourceError, and ServeError as the store does.
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
                    async with self._pace(file, destination) as pace:

                        def hear(num_bytes: int) -> None:
                            place.heard(num_bytes)
                            pace.heard(num_bytes)
                            on_bytes(num_bytes)

                        await source.download(adapter, file, destination, token, hear)

                # It may have come since the store was asked: by another name, or just before.
                there = await self._store.lease(adapter)
                return there or await self._store.receive(adapter_id, adapter, fetch)
        except SourceCorrupt:  # the bytes are the same for everybody
            raise
        except SourceError as error:
            raise _FetchFailed(self._authority.fingerprint(token), error) from None

    def _pace(self, file: RemoteFile, destination: Path) -> AbstractAsyncContextManager[Pace]:
        num_held = destination.stat().st_size if destination.exists() else 0
        return least_pace(
            file.num_bytes - num_held,
            rate=self._limits.least_rate,
            seconds=self._limits.pace_seconds,
        )


class _FetchFailed(Exception):
    """A download did not succeed with this credential."""

    def __init__(self, credential: Fingerprint, error: SourceError) -> None:
        super().__init__()
        self.credential = credential
        self.error = error
