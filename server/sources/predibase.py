"""Adapters of Predibase: its gateway says which folder of a bucket a name means for this token.

Whose token the gateway accepts may use the adapter, nobody else; the folder is then read with the
operator's S3 settings. These have a list of allowed places of their own: what the s3 source allows
is everybody's.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.sources.deadline import deadline
from lorax_serve.server.sources.predibase_gateway import (
    DEFAULT_GATEWAY,
    PredibaseGateway,
    parse_predibase_id,
)
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.sources.s3 import S3Source, same_file
from lorax_serve.server.sources.s3_objects import S3File
from lorax_serve.server.sources.s3_settings import S3Settings
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    OnBytes,
    RemoteAdapter,
    RemoteFile,
    SourceUnavailable,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PredibaseSettings:
    """Times in seconds."""

    s3: S3Settings  # `allowed` is where the gateway may point to, `default` where its paths begin
    gateway_url: str = DEFAULT_GATEWAY
    stall_seconds: float = 10.0  # how long the gateway may be silent
    resolve_seconds: float = 30.0  # of the gateway's part


class PredibaseSource:
    name = "pbase"

    def __init__(self, settings: PredibaseSettings, retries: Retries | None = None) -> None:
        """Blocks for a moment. Raises StartError."""
        if not settings.s3.allowed:
            raise StartError("Predibase adapters need the bucket or folder where they lie.")
        self._settings = settings
        self._retries = retries or Retries()
        self._s3 = S3Source(settings.s3, retries)
        self._gateway = PredibaseGateway(settings.gateway_url, stall_seconds=settings.stall_seconds)

    @property
    def host(self) -> str:
        return urlsplit(self._settings.gateway_url).netloc

    def check_id(self, adapter_id: str) -> None:
        parse_predibase_id(adapter_id)

    async def resolve(self, adapter_id: str, token: str | None) -> RemoteAdapter:
        """Raises SourceError, and ServeError (ADAPTER_UNAVAILABLE) before training."""
        asked = parse_predibase_id(adapter_id)
        async with deadline(self._settings.resolve_seconds):
            path = await self._retries.run(lambda: self._gateway.path(asked, token))
        found = await self._found(path)
        return replace(found, source=self.name, repository=str(asked), public=False)

    async def download(
        self,
        adapter: RemoteAdapter,
        file: RemoteFile,
        destination: Path,
        token: str | None,
        on_bytes: OnBytes,
    ) -> None:
        if not isinstance(file, S3File):  # remembered from an earlier run, without what pins it
            file = same_file(await self.resolve(adapter.repository, token), adapter, file)
        await self._s3.fetch(file, destination, on_bytes)

    async def close(self) -> None:
        await self._gateway.close()
        await self._s3.close()

    async def _found(self, path: str) -> RemoteAdapter:
        try:
            self._s3.check_id(path)
        except ServeError:
            raise SourceUnavailable("the gateway's path is none in a bucket") from None
        try:
            return await self._s3.resolve(path, None)
        except NotFoundOrForbidden as error:  # the caller may have it, and cannot tell why not
            log.warning("predibase_files_refused", reason=str(error))
            raise
