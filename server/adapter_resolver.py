"""From an adapter's name in a request to files that stay as long as the request needs them."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from lorax_serve.ipc.types import AdapterRef, ErrorCode
from lorax_serve.server.adapter_aliases import AdapterAliases, Target
from lorax_serve.server.errors import ServeError, UnservedSource, adapter_not_found
from lorax_serve.server.places import Place
from lorax_serve.server.remote_adapters import RemoteAdapters
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.sources.local_looks import LocalLooks
from lorax_serve.server.sources.source import RemoteAdapter
from lorax_serve.server.store.fetches import FetchCounts, FetchUnderWay
from lorax_serve.server.store.lease import Lease
from lorax_serve.server.turns import in_turns

LOCAL: Final = "local"

# How the engine says that an adapter's files are damaged, or not all there.
_DAMAGED: Final = frozenset(
    {ErrorCode.ADAPTER_CORRUPT, ErrorCode.ADAPTER_CHANGED, ErrorCode.MODEL_NOT_FOUND}
)


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """What the engine is told. As a context manager it holds the files until the request's end."""

    ref: AdapterRef
    source: str
    lease: Lease | None = None  # None: they are the operator's, and nobody else's to hold
    named_by_operator: bool = False  # an alias, or the name of a folder in the adapter directory
    opened_by_token: bool = False  # it is not anybody's, and the caller's token was the proof

    def __enter__(self) -> "ResolvedAdapter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def share(self) -> "ResolvedAdapter":
        """The same once more, with a hold of its own."""
        return self if self.lease is None else replace(self, lease=self.lease.share())

    def release(self) -> None:
        if self.lease is not None:
            self.lease.release()


def engine_refused(adapters: Sequence[ResolvedAdapter], code: ErrorCode) -> None:
    """The engine could not use this adapter, or the merge of these: damaged files are to be fetched
    again for the next request. The parts of a merge are only looked at; one of them is to blame.
    """
    if code not in _DAMAGED:
        return
    for lease in [adapter.lease for adapter in adapters if adapter.lease is not None]:
        if len(adapters) == 1:
            lease.distrust()
        else:
            lease.recheck()


class AdapterResolver:
    """`default_source` is meant where a request names none, and no alias. Without `remote` only
    folders of this machine are served.
    """

    def __init__(
        self, local: LocalAdapters, remote: RemoteAdapters | None = None, *, default_source: str
    ) -> None:
        self.aliases = AdapterAliases()
        self.default_source = default_source
        self.folders = LocalLooks(local)
        self._remote = remote

    def target(self, adapter_id: str, source: str | None) -> Target:
        """Which adapter a request means that says this."""
        alias = self.aliases.get(adapter_id) if source is None else None
        return alias or Target(
            self.default_source if source is None else source.lower(), adapter_id
        )

    async def resolve(
        self,
        adapter_id: str,
        source: str | None,
        token: str | None,
        *,
        anew: bool = False,
        place: Place | None = None,
    ) -> ResolvedAdapter:
        """May take as long as a download, and leaves `place` meanwhile; `anew` asks the source
        again which bytes it means.

        Raises ServeError; see the sources and RemoteAdapters.
        """
        target = self.target(adapter_id, source)
        return await self.resolve_as(adapter_id, target, token, anew=anew, place=place)

    async def resolve_as(
        self,
        name: str,
        target: Target,
        token: str | None,
        *,
        anew: bool = False,
        place: Place | None = None,
    ) -> ResolvedAdapter:
        """The target, under a name that may be another than its own."""
        is_alias = name != target.adapter_id
        try:
            found = await self._find(target, token, anew=anew, place=place)
        except ServeError as error:
            if is_alias and error.code is ErrorCode.MODEL_NOT_FOUND:
                raise adapter_not_found(name) from None  # what it stands for is nobody's business
            raise
        ref = msgspec.structs.replace(found.ref, name=name)
        named = found.named_by_operator or self.aliases.get(name) == target
        return replace(found, ref=ref, named_by_operator=named)

    async def _find(
        self, target: Target, token: str | None, *, anew: bool, place: Place | None
    ) -> ResolvedAdapter:
        source, adapter_id = target.source, target.adapter_id
        if source == LOCAL:
            ref = await self.folders.resolve(adapter_id)
            return ResolvedAdapter(ref, LOCAL, named_by_operator=not adapter_id.startswith("/"))
        if self._remote is None or source not in self._remote.names:
            raise UnservedSource(self.sources)
        adapter, lease = await self._remote.lease(source, adapter_id, token, anew=anew, place=place)
        ref = AdapterRef(name=adapter_id, path=str(lease.path), revision=lease.digest)
        opened_by_token = token is not None and not adapter.public
        return ResolvedAdapter(ref, source, lease, opened_by_token=opened_by_token)

    async def root(self, target: Target, token: str | None) -> str | None:
        """`source:id`, with the revision where it is fetched; None if this caller may not use it,
        or is not known to. Nobody is asked, and nothing fetched.
        """
        if target.source == LOCAL:
            try:
                await self.folders.resolve(target.adapter_id)
            except ServeError:
                return None
            return str(target)
        if self._remote is None:
            return None
        known = self._remote.known(target.source, target.adapter_id, token)
        return None if known is None else _root(known)

    async def listed(self, token: str | None) -> AsyncIterator[tuple[str, str]]:
        """Names and roots of the aliases and fetched adapters that this caller may use."""
        async for name, target in in_turns(tuple(self.aliases)):
            root = await self.root(target, token)
            if root is not None:
                yield name, root
        if self._remote is not None:
            async for adapter_id, adapter in in_turns(self._remote.listed(token)):
                yield adapter_id, _root(adapter)

    def stored(self) -> Iterator[tuple[Target, str]]:
        """Every adapter whose fetched bytes are here, with their digest, whoever may use it."""
        if self._remote is not None:
            for known in self._remote.stored():
                yield Target(known.source, known.adapter_id), known.digest

    @property
    def cache_dir(self) -> Path | None:
        """Where fetched adapters are kept."""
        return None if self._remote is None else self._remote.cache_dir

    def fetches(self) -> list[FetchUnderWay]:
        """Downloads under way, whoever waits for them."""
        return [] if self._remote is None else self._remote.fetches()

    def fetch_counts(self) -> Mapping[str, FetchCounts]:
        """By source, of those that have ended."""
        return {} if self._remote is None else self._remote.fetch_counts()

    @property
    def sources(self) -> tuple[str, ...]:
        return (LOCAL, *(() if self._remote is None else self._remote.names))

    def stop(self) -> None:
        """Fail those who wait for an adapter, and who asks from now on for one to be fetched."""
        if self._remote is not None:
            self._remote.stop()

    async def close(self) -> None:
        if self._remote is not None:
            await self._remote.close()


def _root(adapter: RemoteAdapter) -> str:
    return f"{adapter.source}:{adapter.repository}@{adapter.revision}"
