"""An adapter's objects in a bucket: which there are, pinned to what they are now, and their bytes.

Everything here blocks, for as long as the client's timeouts let it. Raises SourceError throughout.
"""

import base64
import binascii
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from lorax_serve.server.sources.layout import adapter_folder
from lorax_serve.server.sources.s3_errors import s3_errors
from lorax_serve.server.sources.s3_location import Location
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    RemoteFile,
    SourceCorrupt,
    SourceUnavailable,
)
from lorax_serve.server.store.content import (
    CONFIG_FILE,
    TEMPLATE_FILES,
    is_adapter_file,
    is_shard,
)

MAX_FILES: Final = 66  # a config, and 65 shards at most; chat templates do not count
_COMMON_START: Final = "adapter_"  # of all names that an adapter's files can have
_BLOCK_BYTES: Final = 2**20
_BLOCK_SECONDS: Final = 0.2
_SHA256_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class S3File(RemoteFile):
    """An object as it was when it was found."""

    bucket: str
    key: str
    etag: str
    version_id: str | None  # None in buckets that keep no versions


class S3Body:
    """The rest of an object from byte `start` on. One thread reads at a time."""

    def __init__(self, stream: Any, start: int) -> None:
        self.start = start
        # botocore's own stream can only wait until all that was asked for is there.
        self._raw = stream._raw_stream

    def read(self) -> bytes:
        """The next megabyte, or what has come by the time that is worth handing on; empty at the
        end. What came before a failure still counts: the next call fails, or ends too early.
        """
        block = bytearray()
        enough_at = time.monotonic() + _BLOCK_SECONDS
        try:
            with s3_errors():
                while piece := self._raw.read1(_BLOCK_BYTES - len(block)):
                    block += piece
                    if len(block) == _BLOCK_BYTES or time.monotonic() >= enough_at:
                        break
        except SourceUnavailable:
            if not block:
                raise
        return bytes(block)

    def close(self) -> None:
        """From any thread, even while another one reads: that one gets no more."""
        # It refuses when the stream has ended and the connection is somebody else's by now.
        with contextlib.suppress(RuntimeError, ValueError, OSError):
            self._raw.shutdown()
        self._raw.close()


class S3Objects:
    """`client` is boto3's, for S3; it may be used by many threads. `with_templates`: chat templates
    are among an adapter's files.
    """

    def __init__(self, client: Any, *, with_templates: bool = False) -> None:
        self._client = client
        self._with_templates = with_templates

    def find(self, folder: Location) -> tuple[S3File, ...]:
        """The adapter files and shards directly in `folder`, or in the one of its folders that a
        layout says; by name; others are never looked at.

        May be empty, where there is only something else that looks like an adapter. All are as
        they were at one moment, as far as a bucket can say so.
        """
        folder, listed = self._listed_adapter(folder)
        if not listed:
            raise NotFoundOrForbidden("nothing there is called like an adapter")
        etags = {n: etag for n, etag in listed.items() if is_adapter_file(n) or is_shard(n)}
        if len(etags) > MAX_FILES:
            raise SourceCorrupt(f"more than {MAX_FILES} files")
        if self._with_templates and CONFIG_FILE in etags:
            etags |= self._listed_templates(folder)
        files = tuple(self._head(folder, name) for name in sorted(etags))
        if any(not _are_equal(file.etag, etags[file.name]) for file in files):
            raise SourceUnavailable("the files were replaced while they were listed")
        return files

    def open(self, file: S3File, start: int) -> S3Body:
        """At `start`, or at 0 if the bucket serves no parts. Never another object's bytes."""
        request = {"Bucket": file.bucket, "Key": file.key, "IfMatch": file.etag}
        if file.version_id is not None:
            request["VersionId"] = file.version_id
        if start:
            request["Range"] = f"bytes={start}-"
        with s3_errors():
            reply = self._client.get_object(**request)
        body = S3Body(reply["Body"], start if "ContentRange" in reply else 0)
        try:
            _check_reply(reply, file, body.start)
        except SourceCorrupt:
            body.close()
            raise
        return body

    def close(self) -> None:
        self._client.close()

    def _listed_adapter(self, folder: Location) -> tuple[Location, dict[str, str]]:
        """Where the adapter lies, and what is listed there. Each of a layout's folders is listed
        by itself: what else a training left beside them may be any number of objects.
        """
        listings: dict[str, dict[str, str]] = {}

        def has_config(inner: str) -> bool:
            listings[inner] = self._listed(folder.below(inner))
            return CONFIG_FILE in listings[inner]

        inner = adapter_folder(has_config)
        return folder.below(inner), listings[inner]

    def _listed_templates(self, folder: Location) -> dict[str, str]:
        """ETags by name. A listing for each: their names have no start in common."""
        return {
            name: etag
            for wanted in TEMPLATE_FILES
            for name, etag in self._listed(folder, wanted).items()
            if name == wanted
        }

    def _listed(self, folder: Location, name_start: str = _COMMON_START) -> dict[str, str]:
        """ETags by name."""
        start = f"{folder.prefix}/"
        with s3_errors():
            reply = self._client.list_objects_v2(
                Bucket=folder.bucket, Prefix=start + name_start, Delimiter="/"
            )
        if "Name" not in reply:  # a page of somebody else, a proxy's for instance
            raise SourceUnavailable("the listing makes no sense")
        if reply.get("IsTruncated"):
            raise SourceCorrupt("more files than a bucket lists at once")
        objects: Iterable[dict[str, Any]] = reply.get("Contents", ())
        return {
            entry["Key"].removeprefix(start): entry.get("ETag", "")
            for entry in objects
            if entry["Key"].startswith(start)
        }

    def _head(self, folder: Location, name: str) -> S3File:
        key = f"{folder.prefix}/{name}"
        with s3_errors():
            reply = self._client.head_object(Bucket=folder.bucket, Key=key, ChecksumMode="ENABLED")
        version_id = reply.get("VersionId", "null")
        if "ContentLength" not in reply or not reply.get("ETag"):
            raise SourceCorrupt("an object without length or ETag")
        return S3File(
            name=name,
            num_bytes=reply["ContentLength"],
            sha256=_sha256(reply),
            bucket=folder.bucket,
            key=key,
            etag=reply["ETag"],
            version_id=None if version_id == "null" else version_id,
        )


def _check_reply(reply: dict[str, Any], file: S3File, start: int) -> None:
    """Raises SourceCorrupt before the first byte unless it is the missing part of `file`."""
    if not _are_equal(reply.get("ETag", ""), file.etag):  # not every store heeds If-Match
        raise SourceCorrupt("the object was replaced")
    expected = f"bytes {start}-{file.num_bytes - 1}/{file.num_bytes}"
    if reply.get("ContentRange", expected) != expected:
        raise SourceCorrupt("another range was sent than was asked for")
    if reply.get("ContentLength") not in (None, file.num_bytes - start):
        raise SourceCorrupt("another length was sent than was named")


def _are_equal(etag: str, other: str) -> bool:
    """Stores differ in whether they put the quotes that belong to an ETag."""
    return etag.strip('"') == other.strip('"')


def _sha256(reply: dict[str, Any]) -> str | None:
    """Lower-case hex where the object was stored with the digest of the whole of it."""
    if reply.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    try:
        digest = base64.b64decode(reply.get("ChecksumSHA256", ""), validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == _SHA256_BYTES else None
