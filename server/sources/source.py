"""What every place that adapters are fetched from has to offer.

A source is asked two things: which bytes a name means now, as one caller may see them, and for the
bytes themselves. It keeps nothing: what was fetched lies in the store, who may use it is remembered
by the resolver.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorax_serve.server.store.content import TEMPLATE_FILES

OnBytes = Callable[[int], None]  # is told how many more bytes have been written


class SourceError(Exception):
    """A source did not give what was asked. Its text is for our log and names no token."""


class NotFoundOrForbidden(SourceError):
    """There is no such adapter, or not for this caller; callers must not learn which."""


class SourceUnavailable(SourceError):
    """The source answers with a failure of its own, too slowly, or not at all.

    5xx after retries, 429, connection refused or reset, DNS, TLS, a stall. `retry_after` is in
    seconds, where the source named a time.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SourceOffline(SourceUnavailable):
    """The operator wants the source asked nothing: what it said last counts, however long ago."""


class SourceCorrupt(SourceError):
    """The bytes are not what was announced: another length, another digest."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    name: str  # adapter_config.json, adapter_model.safetensors, or that of a shard
    num_bytes: int
    sha256: str | None  # lower-case hex, where the source knows it


@dataclass(frozen=True, slots=True)
class RemoteAdapter:
    """What a name meant at the moment it was resolved."""

    source: str  # hub, s3, pbase
    repository: str  # canonical, no revision
    revision: str  # immutable: a commit sha, a digest of ETags or VersionIds, …
    files: tuple[RemoteFile, ...]
    public: bool  # whether anybody may use it without a credential
    folder: str = ""  # of the repository, with a last slash, if the source fetches files by path

    @property
    def template_names(self) -> tuple[str, ...]:
        """Files that are fetched only where the operator wants chat templates of adapters: of one
        revision there may be bytes with them, and others without.
        """
        return tuple(file.name for file in self.files if file.name in TEMPLATE_FILES)


class Source(Protocol):
    """Tokens are one caller's; a source never falls back to a credential it was not given, except
    for one of the operator's where the operator said so.
    """

    name: str

    @property
    def host(self) -> str:
        """Whom it asks, for our log."""

    def check_id(self, adapter_id: str) -> None:
        """Touches no network.

        Raises:
            ServeError: INVALID_REQUEST for an id that could never name an adapter of this source.
        """

    async def resolve(self, adapter_id: str, token: str | None) -> RemoteAdapter:
        """Which bytes the name means now, as this token's owner may see it.

        Success is also the proof of permission. Raises SourceError.
        """

    async def download(
        self,
        adapter: RemoteAdapter,
        file: RemoteFile,
        destination: Path,
        token: str | None,
        on_bytes: OnBytes,
    ) -> None:
        """Write the file, resuming at what `destination` already holds.

        `on_bytes` gets increments; fewer bytes than announced never count as success. Raises
        SourceError, and OSError where `destination` cannot be written.
        """

    async def close(self) -> None: ...
