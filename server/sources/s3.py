"""Adapters in S3 buckets, and in those of every store that speaks S3.

The operator's credentials fetch, and the operator's list of places says what; a caller's token is
neither needed nor sent, so what is allowed here is allowed to every caller.

API: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog

from lorax_serve.server.sources.bounded_threads import BoundedThreads
from lorax_serve.server.sources.deadline import deadline
from lorax_serve.server.sources.retries import Retries
from lorax_serve.server.sources.s3_errors import RefusedByBucket
from lorax_serve.server.sources.s3_location import Location, is_allowed, parse_location
from lorax_serve.server.sources.s3_objects import S3Body, S3File, S3Objects
from lorax_serve.server.sources.s3_settings import S3Settings, make_client
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    OnBytes,
    RemoteAdapter,
    RemoteFile,
    SourceCorrupt,
    SourceUnavailable,
)
from lorax_serve.server.store.content import file_digest
from lorax_serve.server.threads import run_whole

log = structlog.get_logger(__name__)

_AMAZON: Final = "amazonaws.com"

# Part of every revision, so that another way of counting can never give an equal one.
_TAG: Final = b"lorax-serve s3 1\n"


class S3Source:
    """Each bucket has threads of its own, so that one which hangs is waited for by nobody else."""

    name = "s3"

    def __init__(self, settings: S3Settings, retries: Retries | None = None) -> None:
        """Blocks for a moment if any bucket is allowed. Raises StartError."""
        self._settings = settings
        self._retries = retries or Retries()
        self._objects = (
            S3Objects(make_client(settings), with_templates=settings.with_templates)
            if settings.allowed
            else None
        )
        self._threads = {
            place.bucket: BoundedThreads(settings.threads_per_bucket) for place in settings.allowed
        }

    @property
    def host(self) -> str:
        return urlsplit(self._settings.endpoint_url or "").netloc or _AMAZON

    def check_id(self, adapter_id: str) -> None:
        parse_location(adapter_id, self._settings.default)

    async def resolve(self, adapter_id: str, token: str | None) -> RemoteAdapter:
        return await self._find(parse_location(adapter_id, self._settings.default))

    async def download(
        self,
        adapter: RemoteAdapter,
        file: RemoteFile,
        destination: Path,
        token: str | None,
        on_bytes: OnBytes,
    ) -> None:
        if not isinstance(file, S3File):  # remembered from an earlier run, without what pins it
            now = await self._find(parse_location(adapter.repository))
            file = same_file(now, adapter, file)
        await self.fetch(file, destination, on_bytes)

    async def fetch(self, file: S3File, destination: Path, on_bytes: OnBytes) -> None:
        """Append to `destination` what is missing there, going on after interruptions.

        Nothing is left there that is known to be wrong. Raises SourceError and OSError.
        """
        try:
            async with deadline(self._settings.download_seconds):
                await self._retries.run(lambda: self._append(file, destination, on_bytes))
            if file.sha256 not in (None, await run_whole(file_digest, destination)):
                raise SourceCorrupt(f"{file.name} has another SHA-256 than was announced")
        except SourceCorrupt:
            destination.unlink(missing_ok=True)
            raise

    async def close(self) -> None:
        if self._objects is not None:
            self._objects.close()

    async def _find(self, folder: Location) -> RemoteAdapter:
        objects = self._objects
        if objects is None or not is_allowed(folder, self._settings.allowed):
            raise NotFoundOrForbidden("the operator does not allow it")
        threads = self._threads[folder.bucket]
        try:
            async with deadline(self._settings.resolve_seconds):
                files = await self._retries.run(lambda: threads.run(lambda: objects.find(folder)))
        except RefusedByBucket as error:  # callers are told nothing, so the operator must be
            log.warning("bucket_refused", bucket=folder.bucket, reason=str(error))
            raise
        return RemoteAdapter(self.name, str(folder), _revision(files), files, public=True)

    async def _append(self, file: S3File, destination: Path, on_bytes: OnBytes) -> None:
        num_held = destination.stat().st_size if destination.exists() else 0
        if num_held > file.num_bytes:
            raise SourceCorrupt("more is here than was announced")
        if num_held == file.num_bytes and destination.exists():
            return
        async with self._body(file, num_held) as body:
            if body.start < num_held:
                destination.unlink()
                on_bytes(-num_held)
            await self._write(file, body, destination, on_bytes)

    @asynccontextmanager
    async def _body(self, file: S3File, start: int) -> AsyncIterator[S3Body]:
        objects = self._objects
        assert objects is not None, "whoever has a file has resolved it"
        threads = self._threads[file.bucket]
        body = await threads.run(lambda: objects.open(file, start), S3Body.close)
        try:
            yield body
        finally:
            body.close()

    async def _write(
        self, file: S3File, body: S3Body, destination: Path, on_bytes: OnBytes
    ) -> None:
        threads = self._threads[file.bucket]
        num_missing = file.num_bytes - body.start
        with destination.open("ab") as written:
            try:
                while block := await threads.run(body.read):
                    num_missing -= len(block)
                    if num_missing < 0:
                        raise SourceCorrupt("more bytes come than were named")
                    await run_whole(written.write, block)
                    on_bytes(len(block))
            finally:
                await run_whole(written.flush)
        if num_missing:
            raise SourceUnavailable("the body was cut short")


def same_file(now: RemoteAdapter, then: RemoteAdapter, file: RemoteFile) -> S3File:
    """`file` of `then`, as found again. Raises SourceCorrupt if the adapter has changed since."""
    for found in now.files:
        if now.revision == then.revision and found.name == file.name:
            assert isinstance(found, S3File), "they were just found in a bucket"
            return found
    raise SourceCorrupt("the objects were replaced")


def _revision(files: tuple[S3File, ...]) -> str:
    """SHA-256 hex over what identifies each object's content."""
    digest = hashlib.sha256(_TAG)
    for file in files:
        digest.update(f"{file.name} {file.num_bytes} {file.etag} {file.version_id}\n".encode())
    return digest.hexdigest()
