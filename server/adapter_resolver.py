"""From an adapter's name in a request to files that stay as long as the request needs them."""

from dataclasses import dataclass
from types import TracebackType
from typing import Final

from lorax_serve.ipc.types import AdapterRef
from lorax_serve.server.errors import UnservedSource
from lorax_serve.server.remote_adapters import RemoteAdapters
from lorax_serve.server.sources.local import LocalAdapters
from lorax_serve.server.store.lease import Lease

LOCAL: Final = "local"


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """What the engine is told. As a context manager it holds the files until the request's end."""

    ref: AdapterRef
    source: str
    lease: Lease | None = None  # None: they are the operator's, and nobody else's to hold

    def __enter__(self) -> "ResolvedAdapter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        if self.lease is not None:
            self.lease.release()


class AdapterResolver:
    """`default_source` is meant where a request names none. Without `remote` only folders of this
    machine are served.
    """

    def __init__(
        self, local: LocalAdapters, remote: RemoteAdapters | None = None, *, default_source: str
    ) -> None:
        self._local = local
        self._remote = remote
        self._default_source = default_source

    async def resolve(
        self, adapter_id: str, source: str | None, token: str | None
    ) -> ResolvedAdapter:
        """May take as long as a download. Raises ServeError; see the sources and RemoteAdapters."""
        source = self._default_source if source is None else source.lower()
        if source == LOCAL:
            return ResolvedAdapter(self._local.resolve(adapter_id), LOCAL)
        if self._remote is None or source not in self._remote.names:
            raise UnservedSource(self.sources)
        lease = await self._remote.lease(source, adapter_id, token)
        ref = AdapterRef(name=adapter_id, path=str(lease.path), revision=lease.digest)
        return ResolvedAdapter(ref, source, lease)

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
